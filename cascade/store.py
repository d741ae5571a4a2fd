"""Where traces are kept: a small protocol, and its SQL implementation (SQLite file or PostgreSQL by URL)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Engine,
    Float,
    MetaData,
    Row,
    String,
    Table,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from cascade.errors import ConfigError
from cascade.trace import Trace, answer_from_dict, query_from_dict, query_to_dict, verdict_from_dict

_METADATA = MetaData()
_TRACES = Table(
    "traces",
    _METADATA,
    Column("query_id", String, primary_key=True),
    # Microseconds since 1970 in UTC: exact, and ordered alike in every database.
    Column("time_us", BigInteger, nullable=False, index=True),
    Column("route", String, nullable=False),
    Column("version", String, nullable=False),
    Column("escalated", Boolean, nullable=False),
    Column("audited", Boolean, nullable=False),
    Column("audit_propensity", Float, nullable=False),
    Column("cost_usd", Float),
    Column("audit_cost_usd", Float),
    Column("query", JSON, nullable=False),
    Column("cheap", JSON, nullable=False),
    Column("verdict", JSON, nullable=False),
    Column("flagship", JSON(none_as_null=True)),
)


class TraceStore(Protocol):
    """Traces by query id, readable by time."""

    def add(self, traces: Sequence[Trace]) -> int:
        """Store all of `traces` or none; ids already there stay as they are. Returns how many were new."""

    def ids(self) -> set[str]:
        """Query ids of all stored traces."""

    def between(self, start: datetime | None, end: datetime | None) -> list[Trace]:
        """Traces with start <= time < end, in order of time, then id; None leaves a side open."""

    def count(self) -> int:
        """Number of stored traces."""


class SqlTraceStore:
    """Traces in one SQL table. `url` is an SQLAlchemy URL, or the path of an SQLite file.

    Raises ConfigError for a URL or database that cannot be used. Times without a zone are taken as UTC.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url) if "://" in str(url) else f"sqlite:///{url}"
        self._engine = _open_engine(self.url)

    def add(self, traces: Sequence[Trace]) -> int:
        """Store all of `traces` or none; ids already there stay as they are. Returns how many were new."""
        if not traces:
            return 0
        dialect = sqlite if self._engine.dialect.name == "sqlite" else postgresql
        insert = dialect.insert(_TRACES).on_conflict_do_nothing(index_elements=["query_id"])
        with self._engine.begin() as connection:
            before = connection.execute(select(func.count()).select_from(_TRACES)).scalar_one()
            connection.execute(insert, [_to_row(trace) for trace in traces])
            after = connection.execute(select(func.count()).select_from(_TRACES)).scalar_one()
        return int(after - before)

    def ids(self) -> set[str]:
        """Query ids of all stored traces."""
        with self._engine.connect() as connection:
            return set(connection.execute(select(_TRACES.c.query_id)).scalars())

    def between(self, start: datetime | None, end: datetime | None) -> list[Trace]:
        """Traces with start <= time < end, in order of time, then id; None leaves a side open."""
        statement = select(_TRACES).order_by(_TRACES.c.time_us, _TRACES.c.query_id)
        if start is not None:
            statement = statement.where(_TRACES.c.time_us >= _microseconds(start))
        if end is not None:
            statement = statement.where(_TRACES.c.time_us < _microseconds(end))
        with self._engine.connect() as connection:
            return [_from_row(row) for row in connection.execute(statement)]

    def count(self) -> int:
        """Number of stored traces."""
        with self._engine.connect() as connection:
            return int(connection.execute(select(func.count()).select_from(_TRACES)).scalar_one())

    def close(self) -> None:
        """Close the database connections."""
        self._engine.dispose()


def _open_engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(f"trace store URL {url!r} is not one; use a file path or sqlite:///traces.db") from error
    name = parsed.get_backend_name()
    if name not in ("sqlite", "postgresql"):
        raise ConfigError(f"trace store URL names {name!r}; use sqlite or postgresql")
    try:
        if name == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed)
        if name == "sqlite":
            event.listen(engine, "connect", _sqlite_pragmas)
        _METADATA.create_all(engine)
    except (SQLAlchemyError, OSError, ImportError) as error:
        shown = parsed.render_as_string(hide_password=True)
        raise ConfigError(f"cannot open the trace store {shown}: {str(error).splitlines()[0]}") from error
    return engine


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 30000")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


def _microseconds(time: datetime) -> int:
    moment = time if time.tzinfo else time.replace(tzinfo=UTC)
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _to_row(trace: Trace) -> dict[str, Any]:
    return {
        "query_id": trace.query.id,
        "time_us": _microseconds(trace.query.time),
        "route": trace.query.route,
        "version": trace.cheap_version,
        "escalated": trace.escalated,
        "audited": trace.audited,
        "audit_propensity": trace.audit_propensity,
        "cost_usd": trace.cost_usd,
        "audit_cost_usd": trace.audit_cost_usd,
        "query": query_to_dict(trace.query),
        # JSON null, not SQL NULL, where the router spared the cheap attempt: the column was never nullable.
        "cheap": None if trace.cheap is None else asdict(trace.cheap),
        "verdict": asdict(trace.verdict),
        "flagship": None if trace.flagship is None else asdict(trace.flagship),
    }


def _from_row(row: Row[Any]) -> Trace:
    return Trace(
        query=query_from_dict(row.query),
        cheap=None if row.cheap is None else answer_from_dict(row.cheap),
        cheap_version=row.version,
        verdict=verdict_from_dict(row.verdict),
        escalated=row.escalated,
        audited=row.audited,
        audit_propensity=row.audit_propensity,
        flagship=None if row.flagship is None else answer_from_dict(row.flagship),
        cost_usd=row.cost_usd,
        audit_cost_usd=row.audit_cost_usd,
    )
