"""Traces counted by day and week: small enough to keep, whatever the traffic."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from cascade.cost import Price, PriceTable
from cascade.grade import grade, reference_text
from cascade.trace import Answer, Trace

WEEK = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Audited:
    """An accepted answer that the flagship checked."""

    weight: float
    """1 / propensity."""
    wrong: bool
    flagship_usd: float | None


@dataclass(slots=True)
class Tally:
    """Counts and sums of some traces; costs in USD."""

    n: int = 0
    n_escalated: int = 0
    n_priced: int = 0
    """Traces of known cost, which the next two sum over."""
    usd: float = 0.0
    usd_squared: float = 0.0
    flagship_usd: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Count, sum and sum of squares of what the flagship's answers to escalated queries cost."""
    audited: list[Audited] = field(default_factory=list)
    then_usd: float = 0.0
    """What the answers of known usage would have cost at the reference's prices."""
    now_usd: float = 0.0
    """What the same answers cost at the prices of their day."""
    texts: dict[str, str] = field(default_factory=dict)
    """Query texts by id, a sample."""
    versions: dict[str, datetime] = field(default_factory=dict)
    """First trace of each version."""

    @property
    def n_accepted(self) -> int:
        return self.n - self.n_escalated


@dataclass(frozen=True, slots=True)
class Counting:
    """How traces are counted."""

    prices: PriceTable
    then: Mapping[str, tuple[float, float]]
    """USD per million tokens in and out by model, as they were at the reference."""
    grade_kind: str = "json_exact"
    reference_kind: str = "flagship"
    sample: int = 2000


def tally(traces: Iterable[Trace], how: Counting) -> Tally:
    """Count traces. Raises ConfigError for a model without a price, InputError for an absent reference."""
    found = Tally()
    for trace in traces:
        found.n += 1
        found.n_escalated += trace.escalated
        _count_cost(found, trace, how)
        if trace.audited and not trace.escalated and trace.audit_propensity > 0:
            _count_audit(found, trace, how)
        time = trace.query.time
        found.versions[trace.cheap_version] = min(found.versions.get(trace.cheap_version, time), time)
        found.texts[trace.query.id] = trace.query.text
        if len(found.texts) > 4 * how.sample:
            found.texts = thinned(found.texts, how.sample)
    found.texts = thinned(found.texts, how.sample)
    return found


def _count_cost(found: Tally, trace: Trace, how: Counting) -> None:
    if trace.cost_usd is not None:
        found.n_priced += 1
        found.usd += trace.cost_usd
        found.usd_squared += trace.cost_usd**2
    served = [trace.cheap, trace.flagship if trace.escalated else None]
    for answer in (a for a in served if a is not None):
        usd, then = how.prices.cost_usd(answer, trace.query.time), _usd_then(answer, how.then)
        if usd is not None and then is not None:
            found.now_usd, found.then_usd = found.now_usd + usd, found.then_usd + then
        if answer is trace.flagship and usd is not None:
            for place, value in enumerate((1.0, usd, usd**2)):
                found.flagship_usd[place] += value


def _usd_then(answer: Answer, then: Mapping[str, tuple[float, float]]) -> float | None:
    if answer.model not in then or answer.tokens_in is None or answer.tokens_out is None:
        return None
    return Price(*then[answer.model]).usd(answer.tokens_in, answer.tokens_out)


def _count_audit(found: Tally, trace: Trace, how: Counting) -> None:
    if trace.flagship is None or trace.cheap is None:
        return
    reference = reference_text(trace.query, trace.flagship, how.reference_kind)
    wrong = grade(trace.cheap.text, reference, how.grade_kind) < 1.0
    usd = how.prices.cost_usd(trace.flagship, trace.query.time)
    found.audited.append(Audited(1 / trace.audit_propensity, wrong, usd))


def thinned(texts: Mapping[str, str], most: int) -> dict[str, str]:
    """At most so many texts, chosen by their ids alone: the same on every look, and of a day's or a week's traffic."""
    if len(texts) <= most:
        return dict(texts)
    return {key: texts[key] for key in by_lot(texts)[:most]}


def by_lot(ids: Iterable[str]) -> list[str]:
    """Ids in an order that is random, and always the same."""
    return sorted(ids, key=lambda key: hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest())


def merged(parts: Sequence[Tally], sample: int = 2000) -> Tally:
    """Several tallies as one."""
    total = Tally()
    for part in parts:
        for name in ("n", "n_escalated", "n_priced", "usd", "usd_squared", "then_usd", "now_usd"):
            setattr(total, name, getattr(total, name) + getattr(part, name))
        total.flagship_usd = [a + b for a, b in zip(total.flagship_usd, part.flagship_usd, strict=True)]
        total.audited += part.audited
        total.texts |= part.texts
        for version, time in part.versions.items():
            total.versions[version] = min(total.versions.get(version, time), time)
    total.texts = thinned(total.texts, sample)
    return total


def monday(moment: datetime) -> date:
    """Monday of a time's week, in UTC."""
    day = (moment.astimezone(UTC) if moment.tzinfo else moment).date()
    return day - timedelta(days=day.weekday())


def by_week(days: Mapping[date, Tally], sample: int = 2000) -> dict[date, Tally]:
    """Tallies of days as tallies of weeks, oldest first; weeks without traffic are left out."""
    weeks: dict[date, list[Tally]] = {}
    for day in sorted(days):
        if days[day].n:
            weeks.setdefault(day - timedelta(days=day.weekday()), []).append(days[day])
    return {week: merged(parts, sample) for week, parts in weeks.items()}
