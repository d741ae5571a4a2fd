"""Traces to escalations: what the flagship had to answer, and whether the cheap tier was wrong on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from cascade.grade import GradeKind, grade
from cascade.store import many_objects
from cascade.trace import Answer, Query, Trace


@dataclass(frozen=True, slots=True)
class Escalation:
    """One escalated query."""

    id: str
    time: datetime
    text: str
    query: Query
    cheap: Answer | None
    """None where the router spared the cheap attempt."""
    flagship: Answer | None
    cheap_correct: bool | None
    """Did the rejected cheap answer agree with the flagship's? None without both, or a usable flagship
    answer."""
    user: str | None
    cost_usd: float | None
    """Serving cost of the query."""


@dataclass(frozen=True, slots=True)
class Collected:
    """Escalations in order of time, and how many traces were left out for which reason."""

    escalations: tuple[Escalation, ...]
    dropped: dict[str, int]


def collect_escalations(
    traces: Iterable[Trace], since: datetime, until: datetime, grade_kind: GradeKind, right_at: float = 1.0
) -> Collected:
    """Escalated traces with since <= time < until; a time without a zone is read as UTC.

    The cheap answer counts as right when its grade against the flagship's reaches `right_at` (0..1).
    Audited answers were accepted, so they are no escalations.
    """
    start, end = _utc(since), _utc(until)
    kept: dict[str, Escalation] = {}
    dropped: Counter[str] = Counter()
    with many_objects():
        for trace in traces:
            reason = _why_not(trace, start, end, kept)
            if reason:
                dropped[reason] += 1
            else:
                kept[trace.query.id] = _escalation(trace, grade_kind, right_at)
        ordered = sorted(kept.values(), key=lambda e: (_utc(e.time), e.id))
    return Collected(tuple(ordered), dict(sorted(dropped.items())))


def distinct_rows(texts: Sequence[str]) -> NDArray[np.int64]:
    """(n,) for each text the row of its first equal, case and white space aside."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(levelled(text), row) for row, text in enumerate(texts)], np.int64)


def levelled(text: str) -> str:
    """A text with case and white space levelled: equal for copies."""
    return " ".join(text.casefold().split())


def _why_not(trace: Trace, start: datetime, end: datetime, kept: dict[str, Escalation]) -> str | None:
    if not start <= _utc(trace.query.time) < end:
        return "outside the window"
    if not trace.escalated:
        return "not escalated"
    if not trace.query.text.strip():
        return "empty text"
    if trace.query.id in kept:
        return "same id twice"
    return None


def _escalation(trace: Trace, grade_kind: GradeKind, right_at: float) -> Escalation:
    flagship, right = trace.flagship, None
    usable = flagship is not None and flagship.text.strip() and flagship.finish_reason != "length"
    if trace.cheap is not None and flagship is not None and usable:
        right = grade(trace.cheap.text, flagship.text, grade_kind) >= right_at
    query = trace.query
    return Escalation(
        id=query.id,
        time=query.time,
        text=query.text,
        query=query,
        cheap=trace.cheap,
        flagship=flagship,
        cheap_correct=right,
        user=query.user,
        cost_usd=trace.cost_usd,
    )


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
