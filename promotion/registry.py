"""The registry: immutable versions, movable aliases, and a history that says who, when and why.

A version is registered once and never changes; its adapter is copied into the registry under the digest
of its content. What serves is decided by three aliases (champion, previous, candidate), each switched
in one database transaction together with its line of history. A process killed at any moment leaves
the aliases as they were or as they should be, never between.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cascade.errors import PromotionConflict, RegistryError
from promotion.database import ALIASES, HISTORY, LINEAGE, VERSIONS, open_database, reading, writing
from promotion.files import adopt_folder, folder_digest
from promotion.versions import Alias, HistoryEntry, Lineage, Version, version_to_dict

__all__ = ["Alias", "HistoryEntry", "Lineage", "Registry", "Version", "version_to_dict"]


class Registry:
    """Versions and aliases in a database (SQLite or PostgreSQL URL), adapters under `root`."""

    def __init__(self, url: str, root: Path) -> None:
        self._root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._engine = open_database(url)
            # A registry that nobody closes must not leave connections behind.
            weakref.finalize(self, self._engine.dispose)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise RegistryError(f"cannot open the registry: {reason}; check its URL and folder") from error

    def register(
        self,
        *,
        name: str,
        base_model: str,
        adapter: Path | None = None,
        verifier: Mapping[str, Any] | None = None,
        report: Path | str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        lineage: Lineage | None = None,
        card: Callable[[Version], str] | None = None,
        who: str = "cascade-distill",
        why: str = "registered",
    ) -> Version:
        """Add a version and point the alias "candidate" at it.

        Its lineage and its model card (Markdown, written by `card` once the version's id is known) are stored with it
        in the same transaction, and never change.

        The adapter folder is copied, so the caller's may go. The same content registered again by the
        same run (one that was killed and started again) returns the version that is there. Raises
        RegistryError when the adapter folder is missing or empty.
        """
        digest = None if adapter is None else adopt_folder(adapter, self._root / "adapters")
        row: dict[str, Any] = {
            "name": name,
            "base_model": base_model,
            "adapter_digest": digest,
            "verifier": None if verifier is None else _plain(verifier),
            "report": None if report is None else str(report),
            "run_id": run_id,
            "metadata": _plain(metadata or {}),
        }
        with writing(self._engine) as connection:
            there = self._same(connection, row) if run_id is not None else None
            if there is not None:
                return there
            insert = VERSIONS.insert().values(**row, created=_now()).returning(VERSIONS.c.number)
            number = int(connection.execute(insert).scalar_one())
            _point(connection, "candidate", number)
            version = self._version(connection, number)
            made_of = {**asdict(lineage or Lineage()), "card": card(version) if card else None}
            connection.execute(LINEAGE.insert().values(number=number, **made_of))
            _log(connection, "register", number=number, replaced=None, who=who, why=why, run_id=run_id)
            return version

    def promote(
        self, version: str, *, who: str, why: str, run_id: str | None = None, measured_against: str | None = None
    ) -> Version:
        """Make a version the champion and the champion the previous one, in one transaction.

        Nothing changes, and nothing is logged, when it is the champion already, or when this run has
        promoted it before (a resumed run does not undo a rollback). Raises RegistryError when the
        version is unknown or its files are damaged, and PromotionConflict when the champion is no longer the
        one that it was `measured_against`: of two promotions at once one wins, and the other is told so.
        """
        number = _number(version)
        self._verify(self.get(version))
        with writing(self._engine) as connection:
            champion = _target(connection, "champion")
            if champion == number or _promoted_by(connection, number, run_id):
                return self._version(connection, number)
            if measured_against is not None and champion != _number(measured_against):
                now = "nothing" if champion is None else f"v{champion}"
                raise PromotionConflict(
                    f"{version} was measured against {measured_against}, but {now} is champion now: "
                    f"evaluate it against {now} before promoting it"
                )
            if champion is not None:
                _point(connection, "previous", champion)
            _point(connection, "champion", number)
            if _target(connection, "candidate") == number:
                connection.execute(ALIASES.delete().where(ALIASES.c.alias == "candidate"))
            _log(connection, "promote", number=number, replaced=champion, who=who, why=why, run_id=run_id)
            return self._version(connection, number)

    def rollback(self, *, who: str, why: str) -> Version:
        """Swap champion and previous in one transaction; the new champion. RegistryError without one."""
        self._verify(self._aliased("previous"))
        with writing(self._engine) as connection:
            champion, previous = _target(connection, "champion"), _target(connection, "previous")
            if champion is None or previous is None:
                raise RegistryError("there is no previous version to roll back to: promote twice first")
            _point(connection, "champion", previous)
            _point(connection, "previous", champion)
            _log(connection, "rollback", number=previous, replaced=champion, who=who, why=why, run_id=None)
            return self._version(connection, previous)

    def reject(self, version: str, *, who: str, why: str, run_id: str | None = None) -> None:
        """Take the alias "candidate" from a version and write down why; no-op when it has lost it."""
        number = _number(version)
        with writing(self._engine) as connection:
            if _target(connection, "candidate") == number:
                connection.execute(ALIASES.delete().where(ALIASES.c.alias == "candidate"))
                _log(connection, "reject", number=number, replaced=None, who=who, why=why, run_id=run_id)

    def resolve(self, alias: Alias | str) -> Version:
        """The version behind an alias, or of an id such as "v3", with its files verified.

        Raises RegistryError when there is none, or when the adapter's files are missing or changed.
        """
        version = self.get(alias) if alias.startswith("v") else self._aliased(alias)
        self._verify(version)
        return version

    def aliases(self) -> dict[str, str]:
        """Alias -> version id."""
        with reading(self._engine) as connection:
            return {row.alias: f"v{row.number}" for row in connection.execute(ALIASES.select())}

    def get(self, version: str) -> Version:
        """A version by id, its files not verified. RegistryError when it does not exist."""
        with reading(self._engine) as connection:
            return self._version(connection, _number(version))

    def lineage(self, version: str) -> Lineage:
        """What a version was made of; all None for one of an older registry."""
        row = self._made_of(version)
        return Lineage() if row is None else Lineage(**{name: getattr(row, name) for name in Lineage.__slots__})

    def card(self, version: str) -> str | None:
        """A version's model card in Markdown, as it was written at registration; None without one."""
        row = self._made_of(version)
        return None if row is None or row.card is None else str(row.card)

    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(VERSIONS.select().order_by(VERSIONS.c.number))
            return [self._from_row(row) for row in rows]

    def history(self) -> list[HistoryEntry]:
        """All changes, oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(HISTORY.select().order_by(HISTORY.c.id)).all()
        return [
            HistoryEntry(
                id=row.id,
                time=row.time,
                action=row.action,
                version=f"v{row.number}",
                replaced=None if row.replaced is None else f"v{row.replaced}",
                who=row.who,
                why=row.why,
                run_id=row.run_id,
            )
            for row in rows
        ]

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _aliased(self, alias: str) -> Version:
        query = sa.select(VERSIONS).join(ALIASES, ALIASES.c.number == VERSIONS.c.number)
        with reading(self._engine) as connection:
            row = connection.execute(query.where(ALIASES.c.alias == alias)).one_or_none()
        if row is None:
            known = ", ".join(sorted(self.aliases())) or "none"
            raise RegistryError(f'the registry has no "{alias}" (known: {known}): register and promote one')
        return self._from_row(row)

    def _made_of(self, version: str) -> Any:
        self.get(version)  # tells of a version that does not exist
        with reading(self._engine) as connection:
            query = LINEAGE.select().where(LINEAGE.c.number == _number(version))
            return connection.execute(query).one_or_none()

    def _version(self, connection: Connection, number: int) -> Version:
        row = connection.execute(VERSIONS.select().where(VERSIONS.c.number == number)).one_or_none()
        if row is None:
            raise RegistryError(f"version v{number} is not in the registry: list its versions")
        return self._from_row(row)

    def _same(self, connection: Connection, row: Mapping[str, Any]) -> Version | None:
        found = connection.execute(VERSIONS.select().where(VERSIONS.c.run_id == row["run_id"]))
        for other in found:
            if all(other._mapping[key] == value for key, value in row.items()):
                return self._from_row(other)
        return None

    def _from_row(self, row: Any) -> Version:
        digest = row.adapter_digest
        return Version(
            id=f"v{row.number}",
            name=row.name,
            base_model=row.base_model,
            adapter=None if digest is None else self._root / "adapters" / digest,
            adapter_digest=digest,
            verifier=row.verifier,
            report=row.report,
            run_id=row.run_id,
            created=row.created,
            metadata=row._mapping["metadata"],
        )

    def _verify(self, version: Version) -> None:
        if version.adapter is None:
            return
        if not version.adapter.is_dir():
            raise RegistryError(f"{version.id}: its adapter folder {version.adapter} is gone: restore it or roll back")
        if folder_digest(version.adapter) != version.adapter_digest:
            raise RegistryError(f"{version.id}: its adapter {version.adapter} was changed: restore it or roll back")


def _target(connection: Connection, alias: str) -> int | None:
    query = sa.select(ALIASES.c.number).where(ALIASES.c.alias == alias).with_for_update()
    number = connection.execute(query).scalar_one_or_none()
    return None if number is None else int(number)


def _point(connection: Connection, alias: str, number: int) -> None:
    moved = connection.execute(ALIASES.update().where(ALIASES.c.alias == alias).values(number=number))
    if moved.rowcount == 0:
        connection.execute(ALIASES.insert().values(alias=alias, number=number))


def _promoted_by(connection: Connection, number: int, run_id: str | None) -> bool:
    if run_id is None:
        return False
    query = sa.select(HISTORY.c.id).where(
        HISTORY.c.action == "promote", HISTORY.c.number == number, HISTORY.c.run_id == run_id
    )
    return connection.execute(query.limit(1)).first() is not None


def _log(connection: Connection, action: str, *, who: str, why: str, **values: Any) -> None:
    if not who.strip() or not why.strip():
        raise RegistryError(f"a {action} needs who and why: the history is read by those who come after")
    connection.execute(HISTORY.insert().values(time=_now(), action=action, who=who, why=why, **values))


def _number(version: str) -> int:
    if not (version.startswith("v") and version[1:].isdigit()):
        raise RegistryError(f'"{version}" is not a version: use an id such as "v3"')
    return int(version[1:])


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back (tuples become lists), so that stored and given values compare equal."""
    return dict(json.loads(json.dumps(dict(value), allow_nan=False)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
