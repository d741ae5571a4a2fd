"""The registry and its history of clusters.

Databases from before migrations hold some of these tables or all: every version made those that it missed, and never
changed one. So a table that is there is as written here, and stays.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None

_METADATA = sa.MetaData()
TABLES = (
    sa.Table(
        "versions",
        _METADATA,
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("base_model", sa.String, nullable=False),
        sa.Column("adapter_digest", sa.String),
        sa.Column("verifier", sa.JSON(none_as_null=True)),
        sa.Column("report", sa.String),
        sa.Column("run_id", sa.String),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sqlite_autoincrement=True,  # no number is given twice
    ),
    sa.Table(
        "aliases",
        _METADATA,
        sa.Column("alias", sa.String, primary_key=True),
        sa.Column("number", sa.ForeignKey("versions.number"), nullable=False),
    ),
    sa.Table(
        "history",
        _METADATA,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("time", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("number", sa.ForeignKey("versions.number"), nullable=False),
        sa.Column("replaced", sa.ForeignKey("versions.number")),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("why", sa.String, nullable=False),
        sa.Column("run_id", sa.String),
        sqlite_autoincrement=True,  # no number is given twice
    ),
    sa.Table(
        "lineage",
        _METADATA,
        sa.Column("number", sa.ForeignKey("versions.number"), primary_key=True),
        sa.Column("data_digest", sa.String),
        sa.Column("code_commit", sa.String),
        sa.Column("base_revision", sa.String),
        sa.Column("config_digest", sa.String),
        sa.Column("report_digest", sa.String),
        sa.Column("card", sa.Text),
    ),
    sa.Table(
        "cluster_runs",
        _METADATA,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("run_id", sa.String, nullable=False, unique=True),
        sa.Column("until", sa.String, nullable=False),
        sa.Column("embedder", sa.String, nullable=False),
    ),
    sa.Table(
        "cluster_sightings",
        _METADATA,
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
    ),
)
APPEND_ONLY = ("versions", "history", "lineage")


def upgrade() -> None:
    there = set(sa.inspect(op.get_bind()).get_table_names())
    for table in TABLES:
        if table.name not in there:
            table.create(op.get_bind())
    for name in APPEND_ONLY:
        _guard(name)


def _guard(table: str) -> None:
    """Refuse to change or delete a row, whoever asks; a guard that is there is made anew."""
    why = f"{table} is append-only"
    of_table = ""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE OR REPLACE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql"
            f" AS $$ BEGIN RAISE EXCEPTION '{why}'; END $$"
        )
        then, of_table = f"EXECUTE FUNCTION {table}_refuse()", f" ON {table}"
    else:
        then = f"BEGIN SELECT RAISE(ABORT, '{why}'); END"
    for verb in ("UPDATE", "DELETE"):
        name = f"{table}_no_{verb.lower()}"
        op.execute(f"DROP TRIGGER IF EXISTS {name}{of_table}")
        op.execute(f"CREATE TRIGGER {name} BEFORE {verb} ON {table} {then}")
