"""SQL databases behind the stores: engines whose transactions are ours, and their migrations.

SQLite runs in WAL mode with a sync on every commit; a writer takes its lock before it reads. PostgreSQL transactions
that write wait for one another on an advisory lock, so both behave alike: one writer, readers that see one moment.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from cascade.errors import ConfigError, StoreError


def connect(url: str | URL) -> Engine:
    """An engine for an SQLite or PostgreSQL URL. Raises ConfigError for any other, or without the driver."""
    parsed = _parse(url)
    try:
        engine = sa.create_engine(parsed)
    except ImportError as error:
        raise ConfigError(
            f"{shown(url)} needs the driver psycopg ({error}): install cascade-distill[postgres]"
        ) from error
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    return engine


def shown(url: str | URL) -> str:
    """A URL fit for a message: without its password."""
    return _parse(url).render_as_string(hide_password=True)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection in one read transaction: all that it sees is of one moment."""
    with engine.connect() as connection:
        snapshot = _option(connection, isolation_level="REPEATABLE READ")
        with snapshot.begin():
            yield snapshot


@contextmanager
def writing(engine: Engine, lock: str = "registry") -> Iterator[Connection]:
    """A connection in one write transaction: all of it is committed, or nothing.

    On PostgreSQL, writers under the same `lock` name wait for one another.
    """
    with engine.connect() as connection:
        marked = connection.execution_options(cascade_write=True)
        with marked.begin():
            if engine.dialect.name == "postgresql":
                marked.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key(lock)})
            yield marked


def migrate(
    engine: Engine, scripts: Path, version_table: str, first: str | None = None, first_table: str | None = None
) -> None:
    """Bring a database to the newest revision below `scripts`, by alembic.

    Script files are named by their revision: r0002_what_it_does.py. A database from before migrations (it has
    `first_table`, and no `version_table`) counts as revision `first`; without these, the scripts begin with such a
    database themselves. Raises StoreError for a revision that this version does not know: a newer version wrote it.
    """
    newest = max(path.name[1:5] for path in (scripts / "versions").glob("r[0-9]*.py"))
    with reading(engine) as connection:
        if _revision(connection, version_table) == newest:
            return  # alembic takes longer to import than most stores to read
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes["version_table"] = version_table
    script = ScriptDirectory.from_config(config)
    with writing(engine, lock=version_table) as connection:
        config.attributes["connection"] = connection
        found = _revision(connection, version_table)
        if found is None and first and first_table and sa.inspect(connection).has_table(first_table):
            command.stamp(config, first)
        elif found is not None and found not in {revision.revision for revision in script.walk_revisions()}:
            raise StoreError(
                f"{shown(engine.url)} is at revision {found}, which this version does not know (newest: {newest}):"
                " it was written by a newer cascade-distill; upgrade this one"
            )
        command.upgrade(config, "head")


def _revision(connection: Connection, version_table: str) -> str | None:
    if not sa.inspect(connection).has_table(version_table):
        return None
    found = connection.execute(sa.text(f"SELECT version_num FROM {version_table}")).scalar_one_or_none()
    return None if found is None else str(found)


def _parse(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(f"database URL {url!r} is not one; use a file path or sqlite:///traces.db") from error
    name = parsed.get_backend_name()
    if name not in ("sqlite", "postgresql"):
        raise ConfigError(f"database URL names {name!r}; use sqlite or postgresql")
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername in ("postgresql", "postgres") else parsed


def _prepare_sqlite(engine: Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def _on_connect(raw: Any, _record: Any) -> None:
        # The driver's own transaction handling would begin lazily; BEGIN is ours (see below).
        raw.isolation_level = None
        for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            raw.execute(f"PRAGMA {pragma}").close()

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        # A writer takes its lock first, so that what it reads cannot change before it writes.
        writes = connection.get_execution_options().get("cascade_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _option(connection: Connection, isolation_level: str) -> Connection:
    if connection.dialect.name == "sqlite":
        return connection
    return connection.execution_options(isolation_level=isolation_level)


def _lock_key(name: str) -> int:
    return zlib.crc32(f"cascade-distill {name}".encode())


@contextmanager
def plain_errors(what: str, url: str | URL) -> Iterator[None]:
    """SQL errors as one sentence: ConfigError "cannot open" for `what`, the URL without its password."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"cannot open the {what} {shown(url)}: {first}") from error
