"""The gate's checks of single clusters: none is harmed, and what earlier runs solved stays solved.

Harm must be shown to stop a promotion: with thirty rows a cluster, proving each non-inferior would stop every one.
Holm's correction (1979) keeps the chance of rejecting a harmless candidate within the policy's whole alpha over all
clusters. That is not the level that a decision on a worn slice spends: a smaller one would make harm harder to see.
A loss beyond the margin that one cluster shows by itself, without the correction, asks for more rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import ndtr, ndtri

from evaluation.intervals import holm, pairs_needed, tango_p_less
from evaluation.metrics import Comparison
from evaluation.report import EvaluationReport
from promotion.checks import POWER, Level, points
from promotion.decision import Check, Status


@dataclass(frozen=True, slots=True)
class _Harm:
    """One way in which one cluster may be harmed."""

    where: Comparison
    what: str
    change: float
    """Observed; below zero is harm."""
    margin: float
    disagreement: float
    p_beyond: float
    """Against "no loss beyond the margin"."""
    p_any: float
    """Against "no loss"."""


def check_clusters(report: EvaluationReport, level: Level) -> Check:
    """FAIL: a loss of quality beyond the margin is shown. UNSURE: a loss is shown, beyond the margin as observed, or a
    loss beyond the margin would be shown if this were the only cluster."""
    tested = [c for c in report.clusters if c.paired.n >= level.policy.min_cluster_pairs]
    harms = [_quality_harm(c, level) for c in tested]
    return _judge("no cluster regresses", harms, len(tested), len(report.clusters) - len(tested), report, level)


def check_solved(report: EvaluationReport, level: Level) -> Check | None:
    """Clusters that earlier runs solved lose no quality and do not escalate again; None without any."""
    if not report.solved_clusters:
        return None
    tested = [c for c in report.solved_clusters if c.paired.n >= level.policy.min_cluster_pairs]
    harms = [harm for c in tested for harm in (_quality_harm(c, level), _escalation_harm(c, level))]
    too_small = len(report.solved_clusters) - len(tested)
    return _judge("solved clusters stay solved", harms, len(tested), too_small, report, level)


def _judge(
    name: str, harms: Sequence[_Harm], n_tested: int, n_small: int, report: EvaluationReport, level: Level
) -> Check:
    beyond, any_loss = holm([h.p_beyond for h in harms]), holm([h.p_any for h in harms])
    alpha = level.policy.alpha
    failed = [h for h, p in zip(harms, beyond, strict=True) if p <= alpha]
    lost = [p <= alpha and h.change < -h.margin for h, p in zip(harms, any_loss, strict=True)]
    unsure = [h for h, loss in zip(harms, lost, strict=True) if (loss or h.p_beyond <= alpha) and h not in failed]
    worst = min(harms, key=lambda h: h.change, default=None)
    status = Status.FAIL if failed else Status.UNSURE if unsure else Status.PASS
    numbers: dict[str, float] = {"tested": n_tested, "too_small": n_small, "margin": level.policy.cluster_margin}
    if worst is not None:
        numbers["worst"] = worst.change
    return Check(
        name,
        status,
        _sentence(failed or unsure, worst, n_tested, n_small),
        numbers,
        max(_rows_needed(h, report, level) for h in unsure) if status is Status.UNSURE else None,
    )


def _sentence(bad: Sequence[_Harm], worst: _Harm | None, n_tested: int, n_small: int) -> str:
    scope = f"{n_tested} clusters tested, {n_small} too small to test"
    if bad:
        named = "; ".join(
            f"{h.where.name} ({points(h.change)} points): {h.what} by more than {100 * h.margin:.1f} points"
            for h in bad
        )
        return f"{named}; {scope}"
    return scope if worst is None else f"{scope}; the lowest is {worst.where.name} at {points(worst.change)} points"


def _quality_harm(cluster: Comparison, level: Level) -> _Harm:
    paired, margin = cluster.paired, level.policy.cluster_margin
    return _Harm(
        where=cluster,
        what="served quality is lower",
        change=paired.quality_difference.value,
        margin=margin,
        disagreement=max(paired.n_better + paired.n_worse, 1) / paired.n,
        p_beyond=_p_quality(cluster, -margin, level.alpha),
        p_any=_p_quality(cluster, 0.0, level.alpha),
    )


def _escalation_harm(cluster: Comparison, level: Level) -> _Harm:
    paired, margin = cluster.paired, level.policy.solved_margin
    gained, lost = paired.n_no_longer_escalated, paired.n_newly_escalated
    return _Harm(
        where=cluster,
        what="it escalates again, more often",
        change=(gained - lost) / paired.n,
        margin=margin,
        disagreement=max(gained + lost, 1) / paired.n,
        p_beyond=tango_p_less(gained, lost, paired.n, -margin),
        p_any=tango_p_less(gained, lost, paired.n, 0.0),
    )


def _rows_needed(harm: _Harm, report: EvaluationReport, level: Level) -> int:
    """Held-out rows that would bring enough of this cluster's to tell a loss beyond the margin or not."""
    pairs = pairs_needed(harm.disagreement, harm.margin, power=POWER, alpha=level.policy.alpha)
    return max(report.n + 1, math.ceil(report.n * pairs / harm.where.paired.n))


def _p_quality(cluster: Comparison, delta: float, alpha: float) -> float:
    """One-sided p-value against "this cluster's quality difference is at least delta"."""
    paired = cluster.paired
    if not paired.graded:
        return tango_p_less(paired.n_better, paired.n_worse, paired.n, delta)
    found = paired.quality_difference
    error = (found.high - found.value) / float(ndtri(1 - alpha))
    if error <= 0:
        return 0.0 if found.value < delta else 1.0
    return float(ndtr((found.value - delta) / error))
