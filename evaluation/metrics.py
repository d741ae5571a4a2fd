"""What the paired rows say: escalation, cost and quality of both sides, and their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cascade.calibration import auroc
from cascade.errors import InputError
from evaluation.bootstrap import as_cut, bootstrap_ratios
from evaluation.intervals import Interval, clopper_pearson, tango_difference, wilson
from evaluation.replay import PairedRow, Side
from evaluation.table import PairedTable, SideTable, table_of

FloatArray = NDArray[np.float64]
CONTINUITY = 0.5
"""Continuity correction of the quality interval, in pairs: a promise of at most alpha is kept, not met on average."""


class MetricsConfig(BaseModel):
    """How intervals are computed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """One-sided level of the gate's tests. Intervals are two-sided at 1 - 2 alpha, so that each end is
    a one-sided bound at alpha: the numbers shown are the numbers decided upon."""
    resamples: int = Field(default=2000, ge=200)
    seed: int = 0
    cluster_costs: bool = True
    """Bootstrap each cluster's costs and escalations too. No decision needs them; a simulation leaves them out."""

    @property
    def confidence(self) -> float:
        return 1 - 2 * self.alpha


@dataclass(frozen=True, slots=True)
class SideMetrics:
    """One cascade on the held-out rows. Rates are 0..1; None where nothing can be said."""

    escalation_rate: Interval
    quality: Interval
    """Mean grade of what users got."""
    cheap_quality: Interval
    """Mean grade of the cheap answers, accepted or not."""
    accepted_error: Interval | None
    """Share of wrong answers among the accepted (n counts them); None when none was accepted."""
    n_accepted_wrong: int
    cost_per_1000_usd: Interval | None
    ratio_to_flagship: Interval | None
    """Cost over that of sending everything to the flagship."""
    n_cost_unknown: int
    n_routed: int = 0
    """Escalated without a cheap attempt; they count in the escalation rate."""
    verifier_usd_per_1000: float | None = 0.0
    """What the verifier charged, part of the cost; None when any charge is unknown."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Candidate against champion on the same rows. None where nothing can be said."""

    n: int
    n_better: int
    """Rows that the candidate served better (a higher grade)."""
    n_worse: int
    graded: bool
    """True when grades between 0 and 1 occur: the quality interval is then a bootstrap, not Tango's."""
    quality_difference: Interval
    """Mean grade, candidate - champion."""
    cost_saving: Interval | None
    """1 - candidate's cost / champion's cost, over rows whose costs are known on both sides."""
    saved_per_1000_usd: Interval | None
    escalation_cut: Interval | None
    """1 - candidate's escalations / champion's; None when the champion escalated nothing."""
    n_cost_unknown: int
    n_newly_escalated: int = 0
    """Rows that the candidate escalates and the champion did not."""
    n_no_longer_escalated: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both sides and their difference over one set of rows: all of them, or one cluster's."""

    cluster: int | None
    """None: all rows."""
    name: str
    champion: SideMetrics
    candidate: SideMetrics
    paired: PairedDifference


def compare(
    rows: Sequence[PairedRow] | PairedTable,
    config: MetricsConfig | None = None,
    name: str = "all",
    cluster: int | None = None,
) -> Comparison:
    """Metrics of champion, candidate and their difference over `rows`. InputError without any row."""
    config = config or MetricsConfig()
    table = table_of(rows)
    if not table.n:
        raise InputError("there are no held-out rows to compare: enlarge the held-out window")
    intervals = _Bootstraps(config, skip_costs=cluster is not None and not config.cluster_costs)
    plan = _plan(table, intervals)
    found = intervals.run()
    return Comparison(
        cluster=cluster,
        name=name,
        champion=_side(table.champion, plan.champion, found, config),
        candidate=_side(table.candidate, plan.candidate, found, config),
        paired=_paired(table, plan, found, config),
    )


def compare_clusters(
    rows: Sequence[PairedRow] | PairedTable,
    config: MetricsConfig | None = None,
    names: Mapping[int, str] | None = None,
) -> tuple[Comparison, ...]:
    """One comparison per cluster that occurs in `rows`, largest first; rows of none (-1, None) left out."""
    table, named = table_of(rows), names or {}
    groups = {int(c): np.flatnonzero(table.cluster == c) for c in np.unique(table.cluster) if c >= 0}
    order = sorted(groups, key=lambda cluster: (-len(groups[cluster]), cluster))
    return tuple(compare(table.take(groups[c]), config, named.get(c, f"cluster {c}"), c) for c in order)


def verifier_auroc(sides: Sequence[Side]) -> float | None:
    """How well the verifier's score tells right cheap answers from wrong ones (0.5: not at all).

    Over answers with a score; None when they are all right or all wrong.
    """
    scored = [(s.score, s.correct_cheap >= 1.0) for s in sides if s.score is not None]
    return auroc([score for score, _ in scored], [right for _, right in scored])


@dataclass(slots=True)
class _Bootstraps:
    """The ratios that a comparison needs, collected so that one draw of rows serves them all."""

    config: MetricsConfig
    skip_costs: bool
    asked: list[tuple[FloatArray, FloatArray]] = field(default_factory=list)

    def ask(self, top: FloatArray, bottom: FloatArray, *, cost: bool = True) -> int | None:
        """Place of the ratio's interval in the answer; None where there is nothing to say."""
        if len(top) < 2 or bottom.sum() <= 0 or (cost and self.skip_costs):
            return None
        self.asked.append((top, bottom))
        return len(self.asked) - 1

    def run(self) -> list[Interval]:
        """Intervals in the order of asking; columns over the same rows are resampled together."""
        found: dict[int, Interval] = {}
        for n in {len(top) for top, _ in self.asked}:
            places = [i for i, (top, _) in enumerate(self.asked) if len(top) == n]
            intervals = bootstrap_ratios(
                [self.asked[i] for i in places],
                self.config.confidence,
                resamples=self.config.resamples,
                seed=self.config.seed,
            )
            found.update(zip(places, intervals, strict=True))
        return [found[i] for i in range(len(self.asked))]


@dataclass(frozen=True, slots=True)
class _SidePlan:
    quality: int | None
    cheap_quality: int | None
    cost: int | None
    to_flagship: int | None


@dataclass(frozen=True, slots=True)
class _Plan:
    champion: _SidePlan
    candidate: _SidePlan
    quality: int | None
    saving: int | None
    saved: int | None
    escalations: int | None


def _plan(table: PairedTable, ask: _Bootstraps) -> _Plan:
    before, after = table.champion, table.candidate
    known = before.known & after.known
    ones = np.ones(int(known.sum()))
    cost_before, cost_after = before.cost[known], after.cost[known]
    graded = not (_is_binary(before.served) and _is_binary(after.served))
    return _Plan(
        champion=_plan_side(before, table.flagship_cost, ask),
        candidate=_plan_side(after, table.flagship_cost, ask),
        quality=ask.ask(after.served - before.served, np.ones(table.n), cost=False) if graded else None,
        saving=ask.ask(cost_after, cost_before),
        saved=ask.ask((cost_before - cost_after) * 1000, ones),
        escalations=ask.ask((~after.accepted).astype(np.float64), (~before.accepted).astype(np.float64)),
    )


def _plan_side(side: SideTable, flagship: FloatArray, ask: _Bootstraps) -> _SidePlan:
    both = side.known & ~np.isnan(flagship)
    ones = np.ones(len(side.cost))

    def grades(values: FloatArray) -> int | None:
        return None if _is_binary(values) else ask.ask(values, ones, cost=False)

    return _SidePlan(
        quality=grades(side.served),
        cheap_quality=grades(side.cheap),
        cost=ask.ask(side.cost[side.known] * 1000, np.ones(int(side.known.sum()))),
        to_flagship=ask.ask(side.cost[both], flagship[both]),
    )


def _side(side: SideTable, plan: _SidePlan, found: Sequence[Interval], config: MetricsConfig) -> SideMetrics:
    n, n_accepted = len(side.cost), int(side.accepted.sum())
    wrong = int(np.sum(side.accepted & (side.cheap < 1.0)))
    return SideMetrics(
        escalation_rate=wilson(n - n_accepted, n, config.confidence),
        quality=_mean_grade(side.served, plan.quality, found, config),
        cheap_quality=_mean_grade(side.cheap, plan.cheap_quality, found, config),
        accepted_error=clopper_pearson(wrong, n_accepted, config.confidence) if n_accepted else None,
        n_accepted_wrong=wrong,
        cost_per_1000_usd=_at(found, plan.cost),
        ratio_to_flagship=_at(found, plan.to_flagship),
        n_cost_unknown=int(np.sum(~side.known)),
        n_routed=0 if side.routed is None else int(side.routed.sum()),
        verifier_usd_per_1000=_charged(side),
    )


def _charged(side: SideTable) -> float | None:
    if side.verifier_cost is None:
        return 0.0
    return None if np.isnan(side.verifier_cost).any() else 1000 * float(side.verifier_cost.mean())


def _paired(table: PairedTable, plan: _Plan, found: Sequence[Interval], config: MetricsConfig) -> PairedDifference:
    before, after = table.champion, table.candidate
    better, worse = int(np.sum(after.served > before.served)), int(np.sum(after.served < before.served))
    graded = not (_is_binary(before.served) and _is_binary(after.served))
    saving, cut = _at(found, plan.saving), _at(found, plan.escalations)
    return PairedDifference(
        n=table.n,
        n_better=better,
        n_worse=worse,
        graded=graded,
        quality_difference=_at(found, plan.quality)
        or tango_difference(better, worse, table.n, config.confidence, correction=CONTINUITY),
        cost_saving=None if saving is None else as_cut(saving),
        saved_per_1000_usd=_at(found, plan.saved),
        escalation_cut=None if cut is None else as_cut(cut),
        n_cost_unknown=int(np.sum(~(before.known & after.known))),
        n_newly_escalated=int(np.sum(before.accepted & ~after.accepted)),
        n_no_longer_escalated=int(np.sum(~before.accepted & after.accepted)),
    )


def _at(found: Sequence[Interval], place: int | None) -> Interval | None:
    return None if place is None else found[place]


def _mean_grade(grades: FloatArray, place: int | None, found: Sequence[Interval], config: MetricsConfig) -> Interval:
    if _is_binary(grades):
        return wilson(int(grades.sum()), len(grades), config.confidence)
    return _at(found, place) or Interval(float(grades[0]), 0.0, 1.0, 1, "one row")


def _is_binary(grades: FloatArray) -> bool:
    return bool(np.all((grades == 0.0) | (grades == 1.0)))
