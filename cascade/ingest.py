"""Other cascades' logs to traces: one JSON object per line, model replies in the form of OpenAI chat completions.

    {"id": "q1", "time": "2026-11-02T09:15:00Z", "messages": [...], "escalated": true,
     "cheap": {chat completion}, "flagship": {chat completion} or null}

Optional: route, user, schema, reference, version (of the cheap model), audited, audit_propensity. A row that cannot be
used goes to the rejected-rows file with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.client import answer_from_completion
from cascade.cost import PriceTable
from cascade.errors import InputError
from cascade.store import TraceStore
from cascade.trace import Answer, Outcome, Trace, Verdict
from cascade.traffic import RejectedRow, parse_query, write_rejected

BATCH = 500


@dataclass(frozen=True, slots=True)
class Ingested:
    """What one call did with a log."""

    n_new: int
    n_known: int
    """Rows whose id has a trace already; they are left as they are, so a log may be loaded again."""
    n_rejected: int
    rejected_path: Path | None


def ingest_log(path: Path, store: TraceStore, prices: PriceTable, rejected_path: Path) -> Ingested:
    """Store a log's traces. Raises InputError when the file cannot be read, ConfigError for a model without price."""
    rejected: list[RejectedRow] = []
    n_new, n_usable = 0, 0
    batch: list[Trace] = []
    for number, line in _lines(path):
        try:
            batch.append(_trace(line, prices))
        except ValueError as error:
            rejected.append(RejectedRow(number, str(error), line))
            continue
        n_usable += 1
        if len(batch) >= BATCH:
            n_new += store.add(batch)
            batch = []
    n_new += store.add(batch)
    if rejected:
        write_rejected(rejected_path, rejected)
    return Ingested(n_new, n_usable - n_new, len(rejected), rejected_path if rejected else None)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.strip()
    except OSError as error:
        raise InputError(f"cannot read the log {path}: {error.strerror}; check the path") from error


def _trace(line: str, prices: PriceTable) -> Trace:
    """One row to a trace; raises ValueError with the reason."""
    query = parse_query(line.encode())
    row: dict[str, Any] = json.loads(line)
    if not isinstance(row.get("escalated"), bool):
        raise ValueError("escalated is missing or not true or false")  # noqa: TRY004 - one error kind per row
    cheap, flagship = _answer(row, "cheap"), _answer(row, "flagship")
    if cheap is None:
        raise ValueError("cheap is missing: the row needs the cheap tier's completion")
    escalated = row["escalated"]
    cheap_usd = prices.cost_usd(cheap, query.time)
    flagship_usd = prices.cost_usd(flagship, query.time) if flagship else None
    cost = cheap_usd
    if escalated:
        cost = None if cheap_usd is None or flagship_usd is None else cheap_usd + flagship_usd
    return Trace(
        query=query,
        cheap=cheap,
        cheap_version=str(row.get("version") or cheap.model),
        verdict=Verdict(Outcome.REJECT if escalated else Outcome.ACCEPT, None, ("from a log",)),
        escalated=escalated,
        audited=not escalated and flagship is not None,
        audit_propensity=float(row.get("audit_propensity") or 0.0),
        flagship=flagship,
        cost_usd=cost,
        audit_cost_usd=0.0 if escalated or flagship is None else flagship_usd,
    )


def _answer(row: dict[str, Any], key: str) -> Answer | None:
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{key} is {type(value).__name__}, not a chat completion")  # noqa: TRY004
    try:
        return answer_from_completion(value)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{key} is not a chat completion: {error}") from error
