"""The registry's tables, made by the migrations beside this file; versions, history and lineage refuse to be changed.

The history of clusters lives in the same database. Opening it brings its tables up to date.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from cascade.database import connect, migrate, reading, writing

__all__ = [
    "ALIASES",
    "CLUSTER_RUNS",
    "CLUSTER_SIGHTINGS",
    "HISTORY",
    "LINEAGE",
    "METADATA",
    "VERSIONS",
    "connect",
    "open_database",
    "reading",
    "writing",
]

MIGRATIONS = Path(__file__).parent / "migrations"

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


def open_database(url: str) -> Engine:
    """An engine for the registry's database, its tables made or brought up to date.

    Raises ConfigError for a URL that names none, SQLAlchemyError where it cannot be opened, StoreError for one that a
    newer version wrote.
    """
    engine = connect(url)
    try:
        migrate(engine, MIGRATIONS, "registry_revision")
    except Exception:
        engine.dispose()
        raise
    return engine
