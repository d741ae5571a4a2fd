"""What the paired rows say: escalation, cost and quality of both sides, and their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cascade.calibration import auroc
from cascade.errors import InputError
from cascade.verifiers.accounts import add_known
from evaluation.intervals import (
    Interval,
    bootstrap_mean,
    bootstrap_ratio,
    bootstrap_relative_cut,
    clopper_pearson,
    tango_difference,
    wilson,
)
from evaluation.replay import PairedRow, Side

FloatArray = NDArray[np.float64]


class MetricsConfig(BaseModel):
    """How intervals are computed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """One-sided level of the gate's tests. Intervals are two-sided at 1 - 2 alpha, so that each end is
    a one-sided bound at alpha: the numbers shown are the numbers decided upon."""
    resamples: int = Field(default=2000, ge=200)
    seed: int = 0

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
    rows: Sequence[PairedRow],
    config: MetricsConfig | None = None,
    name: str = "all",
    cluster: int | None = None,
) -> Comparison:
    """Metrics of champion, candidate and their difference over `rows`. InputError without any row."""
    config = config or MetricsConfig()
    if not rows:
        raise InputError("there are no held-out rows to compare: enlarge the held-out window")
    return Comparison(
        cluster=cluster,
        name=name,
        champion=side_metrics([r.champion for r in rows], _flagship_costs(rows), config),
        candidate=side_metrics([r.candidate for r in rows], _flagship_costs(rows), config),
        paired=paired_difference(rows, config),
    )


def compare_clusters(
    rows: Sequence[PairedRow],
    config: MetricsConfig | None = None,
    names: Mapping[int, str] | None = None,
) -> tuple[Comparison, ...]:
    """One comparison per cluster that occurs in `rows`, largest first; rows of none (-1, None) left out."""
    groups: dict[int, list[PairedRow]] = {}
    for row in rows:
        if row.cluster is not None and row.cluster >= 0:
            groups.setdefault(row.cluster, []).append(row)
    order = sorted(groups, key=lambda cluster: (-len(groups[cluster]), cluster))
    named = names or {}
    return tuple(compare(groups[c], config, named.get(c, f"cluster {c}"), c) for c in order)


def side_metrics(sides: Sequence[Side], flagship_costs: FloatArray, config: MetricsConfig) -> SideMetrics:
    """Metrics of one side; `flagship_costs` of shape (n,) in USD with NaN where unknown."""
    accepted = [s for s in sides if s.accepted]
    wrong = sum(s.correct_cheap < 1.0 for s in accepted)
    costs = _costs(sides)
    charged = add_known(s.verifier_cost_usd for s in sides)
    known = ~np.isnan(costs)
    both = known & ~np.isnan(flagship_costs)
    return SideMetrics(
        escalation_rate=wilson(len(sides) - len(accepted), len(sides), config.confidence),
        quality=_mean_grade([s.served_correct for s in sides], config),
        cheap_quality=_mean_grade([s.correct_cheap for s in sides], config),
        accepted_error=clopper_pearson(wrong, len(accepted), config.confidence) if accepted else None,
        n_accepted_wrong=wrong,
        cost_per_1000_usd=_mean_or_none(costs[known] * 1000, config),
        ratio_to_flagship=_ratio_or_none(costs[both], flagship_costs[both], config),
        n_cost_unknown=int(np.sum(~known)),
        n_routed=sum(s.routed for s in sides),
        verifier_usd_per_1000=None if charged is None else 1000 * charged / len(sides),
    )


def paired_difference(rows: Sequence[PairedRow], config: MetricsConfig) -> PairedDifference:
    """Candidate against champion over the same rows."""
    before = np.array([r.champion.served_correct for r in rows])
    after = np.array([r.candidate.served_correct for r in rows])
    better, worse = int(np.sum(after > before)), int(np.sum(after < before))
    graded = not (_is_binary(before) and _is_binary(after))
    cost_before, cost_after = _costs([r.champion for r in rows]), _costs([r.candidate for r in rows])
    known = ~np.isnan(cost_before) & ~np.isnan(cost_after)
    escalated = np.array([[not r.champion.accepted, not r.candidate.accepted] for r in rows], dtype=float)
    quality = _mean_or_none(after - before, config) if graded else None
    if quality is None:
        quality = tango_difference(better, worse, len(rows), config.confidence)
    return PairedDifference(
        n=len(rows),
        n_better=better,
        n_worse=worse,
        graded=graded,
        quality_difference=quality,
        cost_saving=_cut_or_none(cost_before[known], cost_after[known], config),
        saved_per_1000_usd=_mean_or_none((cost_before - cost_after)[known] * 1000, config),
        escalation_cut=_cut_or_none(escalated[:, 0], escalated[:, 1], config),
        n_cost_unknown=int(np.sum(~known)),
    )


def verifier_auroc(sides: Sequence[Side]) -> float | None:
    """How well the verifier's score tells right cheap answers from wrong ones (0.5: not at all).

    Over answers with a score; None when they are all right or all wrong.
    """
    scored = [(s.score, s.correct_cheap >= 1.0) for s in sides if s.score is not None]
    return auroc([score for score, _ in scored], [right for _, right in scored])


def _flagship_costs(rows: Sequence[PairedRow]) -> FloatArray:
    return np.array([np.nan if r.flagship_cost_usd is None else r.flagship_cost_usd for r in rows])


def _costs(sides: Sequence[Side]) -> FloatArray:
    return np.array([np.nan if s.cost_usd is None else s.cost_usd for s in sides], dtype=np.float64)


def _is_binary(grades: FloatArray) -> bool:
    return bool(np.all((grades == 0.0) | (grades == 1.0)))


def _mean_grade(grades: Sequence[float], config: MetricsConfig) -> Interval:
    values = np.array(grades)
    if _is_binary(values):
        return wilson(int(values.sum()), len(values), config.confidence)
    return _mean_or_none(values, config) or Interval(float(values[0]), 0.0, 1.0, 1, "one row")


def _mean_or_none(values: FloatArray, config: MetricsConfig) -> Interval | None:
    if len(values) < 2:
        return None
    return bootstrap_mean(values, config.confidence, resamples=config.resamples, seed=config.seed)


def _ratio_or_none(top: FloatArray, bottom: FloatArray, config: MetricsConfig) -> Interval | None:
    if len(top) < 2 or bottom.sum() <= 0:
        return None
    return bootstrap_ratio(top, bottom, config.confidence, resamples=config.resamples, seed=config.seed)


def _cut_or_none(before: FloatArray, after: FloatArray, config: MetricsConfig) -> Interval | None:
    if len(before) < 2 or before.sum() <= 0:
        return None
    return bootstrap_relative_cut(before, after, config.confidence, resamples=config.resamples, seed=config.seed)
