"""Traces in one SQL table: an SQLite file, or a PostgreSQL database by URL."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from cascade.database import connect, migrate, plain_errors, reading, writing
from cascade.store import (
    RECORDS,
    VALUES,
    Span,
    TraceLine,
    from_microseconds,
    from_rows,
    many_objects,
    microseconds,
    to_lines,
    to_row,
)
from cascade.trace import Query, Trace, query_from_dict

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK = "traces"
READ_CHUNK = 5000
"""Rows that are fetched and parsed at a time."""
CHUNK = 500
"""Values in one IN list; SQLite's oldest limit on variables is 999."""


_METADATA = sa.MetaData()
TRACES = sa.Table(
    "traces",
    _METADATA,
    sa.Column("query_id", sa.String, primary_key=True),
    sa.Column("time_us", sa.BigInteger, nullable=False),
    sa.Column("route", sa.String, nullable=False),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("user_key", sa.String),
    sa.Column("escalated", sa.Boolean, nullable=False),
    sa.Column("audited", sa.Boolean, nullable=False),
    sa.Column("audit_propensity", sa.Float, nullable=False),
    sa.Column("cost_usd", sa.Float),
    sa.Column("audit_cost_usd", sa.Float),
    sa.Column("query", sa.JSON, nullable=False),
    # JSON null where the router spared the cheap attempt.
    sa.Column("cheap", sa.JSON, nullable=False),
    sa.Column("verdict", sa.JSON, nullable=False),
    sa.Column("flagship", sa.JSON(none_as_null=True)),
)
WATERMARKS = sa.Table(
    "watermarks",
    _METADATA,
    sa.Column("source", sa.String, primary_key=True),
    sa.Column("value", sa.JSON, nullable=False),
)
# Records as text: it is decoded in one go, and by psycopg not at all.
_PARTS = (
    TRACES.c.version,
    *(TRACES.c[name] for name in VALUES),
    *(sa.cast(TRACES.c[name], sa.Text) for name in RECORDS),
)


class SqlTraceStore:
    """Traces in one SQL table. `url` is an SQLAlchemy URL, or the path of an SQLite file.

    An older database is brought to the newest tables when it is opened. Raises ConfigError for a URL or database that
    cannot be used, StoreError for one that a newer version wrote.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url) if "://" in str(url) else f"sqlite:///{url}"
        self._engine = connect(self.url)
        # A store that nobody closes must not leave connections behind.
        weakref.finalize(self, self._engine.dispose)
        database = self._engine.url.database
        try:
            with plain_errors("trace store", self.url):
                if self._engine.dialect.name == "sqlite" and database:
                    Path(database).parent.mkdir(parents=True, exist_ok=True)
                migrate(self._engine, MIGRATIONS, "traces_revision", first="0001", first_table="traces")
        except Exception:
            self._engine.dispose()
            raise

    def add(self, traces: Sequence[Trace]) -> int:
        """Store all of `traces` or none; ids already there stay as they are. Returns how many were new."""
        if not traces:
            return 0
        insert = self._insert(TRACES).on_conflict_do_nothing(index_elements=["query_id"]).returning(TRACES.c.query_id)
        rows = [to_row(trace) for trace in traces]
        with writing(self._engine, LOCK) as connection:
            # Only what was new comes back, so the table need not be counted before and after.
            return len(connection.execute(insert, rows).all())

    def ids(self) -> set[str]:
        """Query ids of all stored traces."""
        with reading(self._engine) as connection:
            return set(connection.execute(sa.select(TRACES.c.query_id)).scalars())

    def known(self, ids: Collection[str]) -> set[str]:
        """Which of `ids` have a trace."""
        found: set[str] = set()
        with reading(self._engine) as connection:
            for part in _chunks(ids):
                found |= set(connection.execute(sa.select(TRACES.c.query_id).where(_among(part))).scalars())
        return found

    def between(self, start: datetime | None, end: datetime | None) -> list[Trace]:
        """Traces with start <= time < end, in order of time, then id; None leaves a side open."""
        return self._traces(_window(start, end))

    def escalated(self, start: datetime | None, end: datetime | None) -> list[Trace]:
        """As `between`, the escalated ones alone; an index of them alone is read."""
        return self._traces([*_window(start, end), TRACES.c.escalated])

    def ids_between(self, start: datetime | None, end: datetime | None) -> list[str]:
        """Query ids of `between`, in its order, from the index."""
        statement = sa.select(TRACES.c.query_id).where(*_window(start, end))
        with reading(self._engine) as connection:
            return list(connection.execute(statement.order_by(TRACES.c.time_us, TRACES.c.query_id)).scalars())

    def lines(self, start: datetime | None, end: datetime | None) -> Generator[TraceLine, None, None]:
        """As `between`, one by one and unparsed; all are of one moment."""
        with closing(self._parts((TRACES.c.query_id, *_PARTS), _window(start, end))) as parts:
            for part in parts:
                yield from to_lines(part)

    def span(self) -> Span | None:
        """First and last time, from the index; None when there are no traces."""
        # Two statements: SQLite looks up min and max in the index only when each is asked for alone.
        with reading(self._engine) as connection:
            first = connection.execute(sa.select(sa.func.min(TRACES.c.time_us))).scalar_one()
            last = connection.execute(sa.select(sa.func.max(TRACES.c.time_us))).scalar_one()
        return None if first is None else Span(from_microseconds(first), from_microseconds(last))

    def count(self) -> int:
        """Number of stored traces."""
        with reading(self._engine) as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(TRACES)).scalar_one())

    def queries(self, users: Collection[str] | None, before: datetime | None) -> list[Query]:
        """Queries of these users (None: of anybody) from before a time (None: of any time), in order of time."""
        statement = sa.select(TRACES.c.query).where(*_window(None, before))
        if users is not None:
            statement = statement.where(TRACES.c.user_key.in_(list(users)))
        with reading(self._engine) as connection:
            ordered = connection.execute(statement.order_by(TRACES.c.time_us, TRACES.c.query_id))
            return [query_from_dict(row) for row in ordered.scalars()]

    def remove(self, ids: Collection[str]) -> int:
        """Delete traces for good: all of `ids` or none. Returns how many were there."""
        with writing(self._engine, LOCK) as connection:
            if self._engine.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA secure_delete = ON")  # else the text stays in free pages
            removed = sum(connection.execute(TRACES.delete().where(_among(part))).rowcount for part in _chunks(ids))
        if removed and self._engine.dialect.name == "sqlite":
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed

    def watermark(self, source: str) -> dict[str, Any] | None:
        """What `set_watermark` kept for a source."""
        with reading(self._engine) as connection:
            statement = sa.select(WATERMARKS.c.value).where(WATERMARKS.c.source == source)
            found = connection.execute(statement).scalar_one_or_none()
        return None if found is None else dict(found)

    def set_watermark(self, source: str, value: Mapping[str, Any]) -> None:
        """Keep how far a source has been read."""
        insert = self._insert(WATERMARKS).values(source=source, value=dict(value))
        with writing(self._engine, LOCK) as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=["source"], set_={"value": dict(value)}))

    def close(self) -> None:
        """Close the database connections."""
        self._engine.dispose()

    def _insert(self, table: sa.Table) -> Any:
        return (sqlite if self._engine.dialect.name == "sqlite" else postgresql).insert(table)

    def _traces(self, conditions: Sequence[sa.ColumnElement[bool]]) -> list[Trace]:
        with many_objects():
            return [trace for part in self._parts(_PARTS, conditions) for trace in from_rows(part)]

    def _parts(
        self, columns: Sequence[sa.ColumnElement[Any]], conditions: Sequence[sa.ColumnElement[bool]]
    ) -> Generator[list[tuple[Any, ...]], None, None]:
        """Rows in order of time, then id, `READ_CHUNK` at a time and as columns."""
        statement = sa.select(*columns).where(*conditions).order_by(TRACES.c.time_us, TRACES.c.query_id)
        # The result is closed by name: a reader that stops half-way leaves PostgreSQL's cursor behind else.
        with (
            reading(self._engine) as connection,
            connection.execution_options(yield_per=READ_CHUNK).execute(statement) as rows,
        ):
            for part in rows.partitions():
                yield list(zip(*part, strict=True))


def _window(start: datetime | None, end: datetime | None) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if start is not None:
        conditions.append(TRACES.c.time_us >= microseconds(start))
    if end is not None:
        conditions.append(TRACES.c.time_us < microseconds(end))
    return conditions


def _among(ids: Sequence[str]) -> sa.ColumnElement[bool]:
    return TRACES.c.query_id.in_(ids)


def _chunks(ids: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(set(ids))
    for start in range(0, len(ordered), CHUNK):
        yield ordered[start : start + CHUNK]
