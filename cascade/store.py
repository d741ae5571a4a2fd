"""Where traces are kept: one protocol, and what opens the store that a URL names.

    traces.db, sqlite:///traces.db            one SQLite file (`cascade.sql_store`)
    postgresql://user@host/database           a PostgreSQL database (`cascade.sql_store`)
    lake:folder, s3://bucket/lake, memory://  Parquet files by day (`cascade.lake`), through fsspec

All three keep a trace once by its query id, add a batch whole or not at all, and serve several processes at a time.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic_core import from_json

from cascade.errors import ConfigError
from cascade.trace import Query, Trace, trace_from_dict

if TYPE_CHECKING:
    from collections.abc import Mapping

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RECORDS = ("query", "cheap", "verdict", "flagship")
"""The parts of a trace that a store keeps as JSON; everything else has a column of its own."""
VALUES = ("escalated", "audited", "audit_propensity", "cost_usd", "audit_cost_usd")


@dataclass(frozen=True, slots=True)
class Span:
    """Time of the first and of the last trace."""

    first: datetime
    last: datetime


class TraceSink(Protocol):
    """What serving needs: where traces go, and which are there."""

    def add(self, traces: Sequence[Trace]) -> int:
        """Store all of `traces` or none; ids already there stay as they are. Returns how many were new."""

    def known(self, ids: Collection[str]) -> set[str]:
        """Which of `ids` have a trace."""


class TraceStore(TraceSink, Protocol):
    """Traces by query id, readable by time. Times without a zone are taken as UTC.

    Opening one raises ConfigError where it cannot be opened; reading and writing raise StoreError where what is there
    cannot be used.
    """

    def ids(self) -> set[str]:
        """Query ids of all stored traces."""

    def between(self, start: datetime | None, end: datetime | None) -> list[Trace]:
        """Traces with start <= time < end, in order of time, then id; None leaves a side open."""

    def escalated(self, start: datetime | None, end: datetime | None) -> list[Trace]:
        """As `between`, the escalated ones alone; the others are not read."""

    def span(self) -> Span | None:
        """First and last time, without reading the traces; None when there are none."""

    def count(self) -> int:
        """Number of stored traces."""

    def queries(self, users: Collection[str] | None, before: datetime | None) -> list[Query]:
        """Queries of these users (None: of anybody) from before a time (None: of any time), in order of time."""

    def remove(self, ids: Collection[str]) -> int:
        """Delete traces for good: all of `ids` or none. Returns how many were there."""

    def watermark(self, source: str) -> dict[str, Any] | None:
        """What `set_watermark` kept for a source."""

    def set_watermark(self, source: str, value: Mapping[str, Any]) -> None:
        """Keep how far a source has been read."""

    def close(self) -> None:
        """Let go of connections."""


def open_traces(target: str | Path) -> TraceStore:
    """The store at a path or URL, made when it is not there. Raises ConfigError when it cannot be opened."""
    text = str(target)
    scheme = text.split(":", 1)[0].lower() if ":" in text else ""
    backend = scheme.split("+", 1)[0]
    if not scheme or backend in ("sqlite", "postgresql", "postgres"):
        from cascade.sql_store import SqlTraceStore

        return SqlTraceStore(target)
    if scheme == "lake" or "://" in text:
        from cascade.lake import LakeTraceStore

        return LakeTraceStore(text.removeprefix("lake:"))
    raise ConfigError(f"traces: {text!r} is no store: use a file path, postgresql://..., or lake:folder")


def to_row(trace: Trace) -> dict[str, Any]:
    """A trace as one flat row: key columns, plain values, and `RECORDS` as JSON-ready values or None."""
    row = plain(trace)
    row["query"]["time"] = trace.query.time.isoformat()
    return {
        "query_id": trace.query.id,
        "time_us": microseconds(trace.query.time),
        "route": trace.query.route,
        "version": trace.cheap_version,
        "user_key": trace.query.user,
        **{name: row[name] for name in VALUES},
        **{name: row[name] for name in RECORDS},
    }


def from_row(row: Any) -> Trace:
    """Inverse of `to_row`: a mapping with (at least) the version, `VALUES` and `RECORDS`."""
    return trace_from_dict({"cheap_version": row["version"], **{name: row[name] for name in (*VALUES, *RECORDS)}})


def plain(record: Any) -> dict[str, Any]:
    """`dataclasses.asdict` without its deep copies, which would cost half of the time that loading a log takes."""
    values = {}
    for name in record.__slots__:
        value = getattr(record, name)
        if isinstance(value, tuple):
            value = [plain(item) if is_dataclass(item) else item for item in value]
        values[name] = plain(value) if is_dataclass(value) else value
    return values


def from_rows(columns: Sequence[Sequence[Any]]) -> list[Trace]:
    """Traces of rows given as columns: version, `VALUES`, then `RECORDS` as JSON text or None.

    Many small objects come into being at once and none goes, so the search for garbage, a third of the time, waits.
    """
    paused = gc.isenabled()
    gc.disable()
    try:
        return [from_row(dict(zip(_ROW, _decoded(row), strict=True))) for row in zip(*columns, strict=True)]
    finally:
        if paused:
            gc.enable()


def _decoded(row: Sequence[Any]) -> Iterator[Any]:
    n_plain = 1 + len(VALUES)
    yield from row[:n_plain]
    for text in row[n_plain:]:
        yield None if text is None else _decode(text)


def _decode(text: str) -> Any:
    try:
        return from_json(text, cache_strings="keys")  # three times as fast as json
    except ValueError:
        return json.loads(text)  # which takes half of a surrogate pair, too


_ROW = ("version", *VALUES, *RECORDS)


def to_json(value: Any) -> str:
    """JSON text of a record; everything beyond ASCII is escaped, so any string can be stored."""
    return json.dumps(value, separators=(",", ":"))


def microseconds(time: datetime) -> int:
    """Microseconds since 1970 in UTC: exact, and ordered alike in every store."""
    moment = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_microseconds(time_us: int) -> datetime:
    """Inverse of `microseconds`, in UTC."""
    return EPOCH + timedelta(microseconds=time_us)
