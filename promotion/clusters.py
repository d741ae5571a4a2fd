"""The history of clusters: what each run saw, under names that stay.

One row per run, one per cluster and run. A run that is started again replaces its own rows; "earlier" is by the end
of the runs' windows, so that an old window run again does not look into its future. Centroids of two embedders do not
compare, so a run with another embedder begins anew: it knows no earlier cluster, and no id is given twice.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cascade.errors import RegistryError
from clustering.lineage import ClusterState, Known
from promotion.database import CLUSTER_RUNS, CLUSTER_SIGHTINGS, open_database, reading, writing


@dataclass(frozen=True, slots=True)
class Sighting:
    """One cluster in one run."""

    uid: str
    state: ClusterState
    cluster: int | None
    """Its number in the run; None when it did not escalate."""
    name: str
    size: int
    """Escalations; 0 when it did not escalate."""
    cost_usd: float | None
    why: str
    known: Known
    """By what later runs recognise it: of an absent cluster, as it was last seen."""


class ClusterHistory:
    """Clusters by run in the registry's database (an SQLite or PostgreSQL URL)."""

    def __init__(self, url: str) -> None:
        try:
            self._engine = open_database(url)
            # A history that nobody closes must not leave connections behind.
            weakref.finalize(self, self._engine.dispose)
        except sa.exc.SQLAlchemyError as error:
            reason = str(error).splitlines()[0]
            raise RegistryError(f"cannot open the cluster history: {reason}; check its URL and folder") from error

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def known_before(self, run_id: str, until: datetime, embedder: str) -> tuple[list[Known], int]:
        """Every cluster that runs before this one with the same embedder have seen, as the newest of them knows it,
        and the number for the next new name."""
        with reading(self._engine) as connection:
            found: dict[str, Known] = {}
            for run in self._earlier(connection, run_id, until, embedder):
                found |= {s.uid: s.known for s in _sightings(connection, run)}
            others = sa.select(CLUSTER_SIGHTINGS.c.uid).where(CLUSTER_SIGHTINGS.c.run_id != run_id).distinct()
            numbers = [int(uid.removeprefix("c-")) for uid in connection.execute(others).scalars()]
        return [found[uid] for uid in sorted(found)], max(numbers, default=0) + 1

    def record(self, run_id: str, until: datetime, embedder: str, sightings: Sequence[Sighting]) -> None:
        """Write what a run saw, in one transaction, in place of what it wrote before."""
        rows = [_row(run_id, place, sighting) for place, sighting in enumerate(sightings)]
        with writing(self._engine) as connection:
            connection.execute(CLUSTER_SIGHTINGS.delete().where(CLUSTER_SIGHTINGS.c.run_id == run_id))
            values = {"until": _moment(until), "embedder": embedder}
            there = CLUSTER_RUNS.update().where(CLUSTER_RUNS.c.run_id == run_id).values(**values)
            if not connection.execute(there).rowcount:
                connection.execute(CLUSTER_RUNS.insert().values(run_id=run_id, **values))
            if rows:
                connection.execute(CLUSTER_SIGHTINGS.insert(), rows)

    def sightings(self, run_id: str) -> list[Sighting]:
        """What a run saw, in the order in which it was recorded; empty for a run without a record."""
        with reading(self._engine) as connection:
            return _sightings(connection, run_id)

    def first_seen(self) -> dict[str, str]:
        """The run that saw each cluster first, by name."""
        with reading(self._engine) as connection:
            first: dict[str, str] = {}
            for run in _runs(connection):
                for row in connection.execute(_of_run(run)):
                    first.setdefault(row.uid, run)
            return first

    def runs(self) -> list[str]:
        """Recorded runs in the order of their windows."""
        with reading(self._engine) as connection:
            return list(_runs(connection))

    def _earlier(self, connection: Connection, run_id: str, until: datetime, embedder: str) -> Iterator[str]:
        own = connection.execute(sa.select(CLUSTER_RUNS.c.id).where(CLUSTER_RUNS.c.run_id == run_id)).scalar()
        for row in connection.execute(CLUSTER_RUNS.select().order_by(CLUSTER_RUNS.c.until, CLUSTER_RUNS.c.id)).all():
            before = row.until < _moment(until) or (row.until == _moment(until) and (own is None or row.id < own))
            if row.run_id != run_id and row.embedder == embedder and before:
                yield row.run_id


@contextmanager
def open_history(url: str) -> Iterator[ClusterHistory]:
    """The history for one block."""
    history = ClusterHistory(url)
    try:
        yield history
    finally:
        history.close()


def _moment(time: datetime) -> str:
    """In UTC and of one width, so that text order is the order of time; without a zone it is read as UTC."""
    aware = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return aware.isoformat(timespec="microseconds")


def _runs(connection: Connection) -> Iterator[str]:
    query = sa.select(CLUSTER_RUNS.c.run_id).order_by(CLUSTER_RUNS.c.until, CLUSTER_RUNS.c.id)
    yield from connection.execute(query).scalars()


def _of_run(run_id: str) -> sa.Select[Any]:
    return CLUSTER_SIGHTINGS.select().where(CLUSTER_SIGHTINGS.c.run_id == run_id).order_by(CLUSTER_SIGHTINGS.c.place)


def _sightings(connection: Connection, run_id: str) -> list[Sighting]:
    return [
        Sighting(
            uid=row.uid,
            state=ClusterState(row.state),
            cluster=row.cluster,
            name=row.name,
            size=row.size,
            cost_usd=row.cost_usd,
            why=row.why,
            known=Known(
                uid=row.uid,
                name=row.name,
                state=ClusterState(row.state),
                solved=row.solved,
                members=frozenset(json.loads(row.members)),
                centroid=np.frombuffer(row.centroid, np.float32),
                reach=row.reach,
            ),
        )
        for row in connection.execute(_of_run(run_id))
    ]


def _row(run_id: str, place: int, sighting: Sighting) -> dict[str, object]:
    return {
        "run_id": run_id,
        "place": place,
        "uid": sighting.uid,
        "state": str(sighting.state),
        "cluster": sighting.cluster,
        "name": sighting.name,
        "size": sighting.size,
        "cost_usd": sighting.cost_usd,
        "why": sighting.why,
        "solved": sighting.known.solved,
        "members": json.dumps(sorted(sighting.known.members)),
        "centroid": np.asarray(sighting.known.centroid, np.float32).tobytes(),
        "reach": sighting.known.reach,
    }
