"""The rule that all weekly checks share: which span of newest weeks speaks, and the week in which it began."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from monitoring.policy import SPANS, MonitorPolicy
from monitoring.records import Check, Name, Point, Status, unknown
from monitoring.tally import Tally, merged


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval over one span, and how often the span's rows count."""

    value: float
    low: float
    high: float
    n: int


Measure = Callable[[Tally], Estimate | None]
"""Estimate over a span; None where it holds too little to tell."""


def check_weeks(
    name: Name,
    weeks: Mapping[date, Tally],
    measure: Measure,
    policy: MonitorPolicy,
    *,
    bar: float,
    baseline: float,
    say: Callable[[Estimate], str],
    too_little: str,
) -> Check:
    """Alarm when the lower bound over the newest week, or over the newest four together, lies above the bar.

    `baseline` is what the value was when all was well: from there the beginning is counted.
    """
    points = [Point(week, e.value, e.low, e.high, e.n) for week, t in weeks.items() if (e := measure(t)) is not None]
    ordered = [weeks[week] for week in sorted(weeks)]
    found = [estimate for span in SPANS if (estimate := _over(ordered, span, measure, policy)) is not None]
    if not found:
        return unknown(name, too_little, points, bar=bar, baseline=baseline)
    loudest = max(found, key=lambda estimate: estimate.low)
    fired = loudest.low > bar
    shown = loudest if fired else found[0]
    return Check(
        name=name,
        status=Status.ALARM if fired else Status.OK,
        sentence=say(shown),
        bar=bar,
        value=shown.value,
        low=shown.low,
        high=shown.high,
        n=shown.n,
        began=began(points, baseline) or max(weeks) if fired else None,
        series=tuple(points),
        baseline=baseline,
    )


def _over(weeks: Sequence[Tally], span: int, measure: Measure, policy: MonitorPolicy) -> Estimate | None:
    """The estimate over so many newest weeks; a week that has hardly begun is taken with the one before."""
    if len(weeks) < span:
        return None
    found = measure(merged(weeks[-span:], policy.sample))
    return measure(merged(weeks[-span - 1 :], policy.sample)) if found is None and span == 1 else found


def began(points: Sequence[Point], baseline: float) -> date | None:
    """The week from which on the values differ most from `baseline`, taken together up to now.

    The likeliest moment of a lasting change of unknown size, values taken as normal (the generalised likelihood ratio
    of Lorden 1971; Basseville and Nikiforov 1993, section 2.4.3). None without points.
    """
    best, week = -math.inf, None
    weighted = total = 0.0
    for point in sorted(points, key=lambda p: p.week, reverse=True):
        half = max((point.high - point.low) / 2, 1e-9)
        weight = 1 / half**2
        weighted, total = weighted + weight * (point.value - baseline), total + weight
        score = weighted / math.sqrt(total)
        if score >= best:
            best, week = score, point.week
    return week
