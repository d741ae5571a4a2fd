"""Where traces are kept: one protocol, and what opens the store that a URL names.

    traces.db, sqlite:///traces.db            one SQLite file (`cascade.sql_store`)
    postgresql://user@host/database           a PostgreSQL database (`cascade.sql_store`)
    lake:folder, s3://bucket/lake, memory://  Parquet files by day (`cascade.lake`), through fsspec

All three keep a trace once by its query id, add a batch whole or not at all, and serve several processes at a time.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from json.encoder import encode_basestring_ascii
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic_core import from_json

from cascade.errors import ConfigError
from cascade.trace import Query, Trace, answer_from_dict, plain, query_from_dict, verdict_from_dict

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


@dataclass(frozen=True, slots=True)
class TraceLine:
    """A trace as it is stored, not parsed."""

    id: str
    escalated: bool
    text: str
    """One line of JSON, of which `cascade.trace.trace_from_dict` makes the trace."""


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

    def ids_between(self, start: datetime | None, end: datetime | None) -> list[str]:
        """Query ids of `between`, in its order, without reading the traces."""

    def lines(self, start: datetime | None, end: datetime | None) -> Generator[TraceLine, None, None]:
        """As `between`, one by one and unparsed: for copying many, of which few need be in memory at a time.
        Close it where it is not read to its end."""

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


def newest(store: TraceStore, n: int) -> list[Trace]:
    """The last `n` traces in order of time (all where there are fewer), without reading those long before them."""
    span, width = store.span(), timedelta(minutes=1)
    if span is None:
        return []
    while span.last - width > span.first and len(store.ids_between(span.last - width, None)) < n:
        width *= 4
    return store.between(max(span.first, span.last - width), None)[-n:]


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


def from_rows(columns: Sequence[Sequence[Any]]) -> list[Trace]:
    """Traces of rows given as columns: version, `VALUES`, then `RECORDS` as JSON text or None."""
    return [_trace(*row) for row in zip(*columns, strict=True)]


def _trace(
    version: str,
    escalated: bool,
    audited: bool,
    audit_propensity: float,
    cost_usd: float | None,
    audit_cost_usd: float | None,
    *records: str | None,
) -> Trace:
    query, cheap, verdict, flagship = [from_text("null" if text is None else text) for text in records]
    return Trace(
        query=query_from_dict(query),
        cheap=answer_from_dict(cheap) if cheap else None,
        cheap_version=version,
        verdict=verdict_from_dict(verdict),
        escalated=escalated,
        audited=audited,
        audit_propensity=audit_propensity,
        flagship=answer_from_dict(flagship) if flagship else None,
        cost_usd=cost_usd,
        audit_cost_usd=audit_cost_usd,
    )


def to_lines(columns: Sequence[Sequence[Any]]) -> list[TraceLine]:
    """Rows given as columns (id, version, `VALUES`, then `RECORDS` as JSON text or None) as lines, nothing parsed."""
    return [_line(*row) for row in zip(*columns, strict=True)]


def _line(query_id: str, version: str, escalated: bool, audited: bool, *others: Any) -> TraceLine:
    propensity, cost_usd, audit_cost_usd = (_scalar(value) for value in others[:3])
    query, cheap, verdict, flagship = (_one_line(text) for text in others[3:])
    text = (
        f'{{"query": {query}, "cheap": {cheap}, "cheap_version": {_scalar(version)}, "verdict": {verdict},'
        f' "escalated": {_scalar(escalated)}, "audited": {_scalar(audited)}, "audit_propensity": {propensity},'
        f' "flagship": {flagship}, "cost_usd": {cost_usd}, "audit_cost_usd": {audit_cost_usd}}}'
    )
    return TraceLine(query_id, escalated, text)


def _scalar(value: str | float | bool | None) -> str:
    """`json.dumps`, which takes several microseconds to begin with: six of these make a line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and isfinite(value):
        return repr(value)
    return encode_basestring_ascii(value) if isinstance(value, str) else json.dumps(value)


def _one_line(text: str | None) -> str:
    """JSON text without line breaks; the stores write none, but who fills a table by other means may."""
    if text is None:
        return "null"
    return json.dumps(json.loads(text)) if "\n" in text or "\r" in text else text


@contextmanager
def many_objects() -> Iterator[None]:
    """While many small objects come into being at once and none goes, the search for garbage, up to a third of the
    time, waits."""
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()


def from_text(text: str) -> Any:
    """A value of its JSON text."""
    try:
        return from_json(text, cache_strings="keys")  # three times as fast as json
    except ValueError:
        return json.loads(text)  # which takes half of a surrogate pair, too


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
