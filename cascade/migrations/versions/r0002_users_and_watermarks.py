"""Users to delete by, indices in the order of reading, one of escalations alone, and how far logs were read."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

USER = {"sqlite": "json_extract(query, '$.user')", "postgresql": "query->>'user'"}


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    op.add_column("traces", sa.Column("user_key", sa.String))
    op.execute(f"UPDATE traces SET user_key = {USER[dialect]} WHERE {USER[dialect]} IS NOT NULL")
    # As SQLAlchemy writes the condition: SQLite takes a partial index only for the very same term.
    escalated: dict[str, Any] = {f"{dialect}_where": sa.text("escalated = 1" if dialect == "sqlite" else "escalated")}
    op.drop_index("ix_traces_time_us", "traces")
    op.create_index("ix_traces_time", "traces", ["time_us", "query_id"])
    op.create_index("ix_traces_escalated", "traces", ["time_us", "query_id"], **escalated)
    op.create_index("ix_traces_user_key", "traces", ["user_key"])
    op.create_table(
        "watermarks",
        sa.Column("source", sa.String, primary_key=True),
        sa.Column("value", sa.JSON, nullable=False),
    )
