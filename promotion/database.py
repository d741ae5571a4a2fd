"""The registry's tables; versions and history refuse to be changed, in either database."""

from __future__ import annotations

import sqlalchemy as sa

from cascade.database import connect, reading, writing

__all__ = [
    "ALIASES",
    "CLUSTER_RUNS",
    "CLUSTER_SIGHTINGS",
    "HISTORY",
    "LINEAGE",
    "METADATA",
    "VERSIONS",
    "connect",
    "reading",
    "writing",
]

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
LINEAGE = sa.Table(
    "lineage",
    METADATA,
    sa.Column("number", sa.ForeignKey("versions.number"), primary_key=True),
    sa.Column("data_digest", sa.String),
    sa.Column("code_commit", sa.String),
    sa.Column("base_revision", sa.String),
    sa.Column("config_digest", sa.String),
    sa.Column("report_digest", sa.String),
    sa.Column("card", sa.Text),
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
_REFUSE = (
    "CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{why}'; END $$"
)
for _table in (VERSIONS, HISTORY, LINEAGE):
    _why = f"{_table.name} is append-only"
    _refuse = sa.DDL(_REFUSE.format(name=f"{_table.name}_refuse", why=_why))  # type: ignore[no-untyped-call]
    sa.event.listen(_table, "after_create", _refuse.execute_if(dialect="postgresql"))
    for _verb in ("UPDATE", "DELETE"):
        _name = f"{_table.name}_no_{_verb.lower()}"
        _sqlite = sa.DDL(  # type: ignore[no-untyped-call]
            f"CREATE TRIGGER IF NOT EXISTS {_name} BEFORE {_verb} ON {_table.name} "
            f"BEGIN SELECT RAISE(ABORT, '{_why}'); END"
        )
        _postgres = sa.DDL(  # type: ignore[no-untyped-call]
            f"CREATE TRIGGER {_name} BEFORE {_verb} ON {_table.name} EXECUTE FUNCTION {_table.name}_refuse()"
        )
        sa.event.listen(_table, "after_create", _sqlite.execute_if(dialect="sqlite"))
        sa.event.listen(_table, "after_create", _postgres.execute_if(dialect="postgresql"))
