"""The table of traces, as it was before migrations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    op.create_table(
        "traces",
        sa.Column("query_id", sa.String, primary_key=True),
        sa.Column("time_us", sa.BigInteger, nullable=False),
        sa.Column("route", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("escalated", sa.Boolean, nullable=False),
        sa.Column("audited", sa.Boolean, nullable=False),
        sa.Column("audit_propensity", sa.Float, nullable=False),
        sa.Column("cost_usd", sa.Float),
        sa.Column("audit_cost_usd", sa.Float),
        sa.Column("query", sa.JSON, nullable=False),
        sa.Column("cheap", sa.JSON, nullable=False),
        sa.Column("verdict", sa.JSON, nullable=False),
        sa.Column("flagship", sa.JSON(none_as_null=True)),
    )
    op.create_index("ix_traces_time_us", "traces", ["time_us"])
