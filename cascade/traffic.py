"""Traffic files: one query per line as JSON, in the form that `query_to_dict` writes.

A row that cannot be used is returned with its line number and the reason, never dropped in silence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC
from pathlib import Path
from typing import Any

from cascade.errors import InputError
from cascade.rows import parse_object
from cascade.trace import Query, query_from_dict, query_to_dict
from cascade.verifiers.rules import schema_problem


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A line that is not a usable query."""

    line_number: int
    """Counted from 1, as editors do."""
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class TrafficFile:
    """What a traffic file held: usable queries in order of time, and the rows that are not."""

    queries: list[Query]
    rejected: list[RejectedRow]


def read_traffic(path: Path) -> TrafficFile:
    """Read a JSONL file; unknown keys are ignored, blank lines skipped, times without a zone taken as UTC.

    Queries are sorted by time, then id. A second row with an id already seen is rejected. Raises InputError
    when the file cannot be read.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read the traffic file {path}: {error.strerror}; check the path") from error
    queries: list[Query] = []
    rejected: list[RejectedRow] = []
    first_seen: dict[str, int] = {}
    for number, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        try:
            query = parse_query(raw, first_seen)
        except ValueError as error:
            rejected.append(RejectedRow(number, str(error), raw.decode("utf-8", "replace").strip()))
        else:
            first_seen[query.id] = number
            queries.append(query)
    return TrafficFile(sorted(queries, key=lambda query: (query.time, query.id)), rejected)


def write_traffic(path: Path, queries: Iterable[Query]) -> None:
    """Write queries as JSONL, one per line, in the order given."""
    _write_lines(path, (query_to_dict(query) for query in queries))


def write_rejected(path: Path, rows: Iterable[RejectedRow]) -> None:
    """Write rejected rows as JSONL with the keys line_number, reason, text."""
    _write_lines(path, (asdict(row) for row in rows))


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    temporary.replace(path)


def parse_query(raw: bytes, first_seen: Mapping[str, int] | None = None) -> Query:
    """One line to a query; raises ValueError with the reason.

    `first_seen` holds the line number of each id met so far; an id in it is refused.
    """
    return query_of(parse_object(raw), first_seen)


def query_of(row: dict[str, Any], first_seen: Mapping[str, int] | None = None) -> Query:
    """One parsed row to a query; raises ValueError with the reason."""
    missing = [key for key in ("id", "time", "messages") if row.get(key) in (None, "", [])]
    if missing:
        raise ValueError(f"missing or empty: {', '.join(missing)}")
    if isinstance(row["id"], bool) or not isinstance(row["id"], str | int):
        raise ValueError(f"id is {type(row['id']).__name__}, not text")  # noqa: TRY004 - one error kind per row
    _check_messages(row["messages"])
    _check_optional(row)
    try:
        query = query_from_dict(row)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"time {row['time']!r} is not an ISO 8601 date and time") from error
    for name, value in (("id", query.id), ("route", query.route), ("user", query.user or "")):
        if "\0" in value:
            raise ValueError(f"{name} holds a NUL character")
    if first_seen and query.id in first_seen:
        raise ValueError(f"id {query.id!r} was already seen on line {first_seen[query.id]}")
    return query if query.time.tzinfo else replace(query, time=query.time.replace(tzinfo=UTC))


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list):
        raise ValueError("messages is not a list")  # noqa: TRY004 - one error kind per row
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise ValueError("a message is not an object with role and content")
        if not all(isinstance(message[key], str) for key in ("role", "content")):
            raise ValueError("a message's role or content is not text")
    if not any(message["role"] == "user" and message["content"].strip() for message in messages):
        raise ValueError("no user message with text")


def _check_optional(row: dict[str, Any]) -> None:
    kinds = {"schema": dict, "reference": str, "user": str, "route": str}
    for key, kind in kinds.items():
        value = row.get(key)
        if key == "route" and value is None and key in row:
            raise ValueError("route is null; leave it out or name one")
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{key} is {type(value).__name__}, not {kind.__name__}")
    problem = schema_problem(row["schema"]) if row.get("schema") is not None else None
    if problem is not None:
        raise ValueError(f"schema is not a JSON Schema: {problem}")
