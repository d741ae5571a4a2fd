"""The registry's tables and transactions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

METADATA = sa.MetaData()
VERSIONS = sa.Table(
    "versions",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("base_model", sa.String, nullable=False),
    sa.Column("adapter_digest", sa.String),
    sa.Column("verifier", sa.JSON(none_as_null=True)),
    sa.Column("report", sa.String),
    sa.Column("run_id", sa.String),
    sa.Column("created", sa.String, nullable=False),
    sa.Column("metadata", sa.JSON, nullable=False),
    sqlite_autoincrement=True,
)
ALIASES = sa.Table(
    "aliases",
    METADATA,
    sa.Column("alias", sa.String, primary_key=True),
    sa.Column("number", sa.ForeignKey("versions.number"), nullable=False),
)
HISTORY = sa.Table(
    "history",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("time", sa.String, nullable=False),
    sa.Column("action", sa.String, nullable=False),
    sa.Column("number", sa.ForeignKey("versions.number"), nullable=False),
    sa.Column("replaced", sa.ForeignKey("versions.number")),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
    sa.Column("run_id", sa.String),
    sqlite_autoincrement=True,
)
CLUSTER_RUNS = sa.Table(
    "cluster_runs",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.String, nullable=False, unique=True),
    sa.Column("until", sa.String, nullable=False),
    sa.Column("embedder", sa.String, nullable=False),
)
CLUSTER_SIGHTINGS = sa.Table(
    "cluster_sightings",
    METADATA,
    sa.Column("run_id", sa.ForeignKey("cluster_runs.run_id"), primary_key=True),
    sa.Column("uid", sa.String, primary_key=True),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("cluster", sa.Integer),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("cost_usd", sa.Float),
    sa.Column("why", sa.String, nullable=False),
    sa.Column("solved", sa.Boolean, nullable=False),
    sa.Column("members", sa.String, nullable=False),
    sa.Column("centroid", sa.LargeBinary, nullable=False),
    sa.Column("reach", sa.Float, nullable=False),
)
for _table in (VERSIONS, HISTORY):
    for _verb in ("UPDATE", "DELETE"):
        _trigger = sa.DDL(  # type: ignore[no-untyped-call]
            f"CREATE TRIGGER IF NOT EXISTS {_table.name}_no_{_verb.lower()} BEFORE {_verb} ON {_table.name} "
            f"BEGIN SELECT RAISE(ABORT, '{_table.name} is append-only'); END"
        )
        sa.event.listen(_table, "after_create", _trigger.execute_if(dialect="sqlite"))


def connect(url: str) -> Engine:
    """An engine whose transactions are ours to begin; SQLite in WAL mode, synced on every commit."""
    engine = sa.create_engine(url)
    if engine.dialect.name != "sqlite":
        return engine

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

    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection in one read transaction: all that it sees is of one moment."""
    with engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A connection in one write transaction: all of it is committed, or nothing."""
    with engine.connect() as connection:
        marked = connection.execution_options(cascade_write=True)
        with marked.begin():
            yield marked
