"""The gate: report + policy -> PROMOTE, REJECT or INCONCLUSIVE, with every reason.

A candidate is promoted only when every check passes. Each check tests at the policy's level, and all of
them must succeed, so the probability of promoting a candidate that breaks any one requirement stays
within alpha without a correction (intersection-union test, Berger 1982, Technometrics 24:295).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter, ValidationError
from scipy.special import ndtr, ndtri

from cascade.errors import ConfigError, InputError
from evaluation.intervals import clopper_pearson, holm, pairs_needed, smallest_n, tango_p_less
from evaluation.metrics import Comparison
from evaluation.report import EvaluationReport
from promotion.policy import GatePolicy

__all__ = ["Check", "Decision", "GateOutcome", "GatePolicy", "Status", "decide"]

POWER = 0.8  # with which `n_needed` would settle an open check


class GateOutcome(StrEnum):
    """What happens to the candidate."""

    PROMOTE = "promote"
    REJECT = "reject"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> int:
        """Exit status of the command line: 0, 3 (rejected), 4 (needs more data)."""
        return {"promote": 0, "reject": 3, "inconclusive": 4}[self.value]


class Status(StrEnum):
    """PASS: proven. FAIL: the opposite is proven. UNSURE: the data do not tell."""

    PASS = "pass"
    FAIL = "fail"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Check:
    """One requirement, what was found, and the numbers behind it."""

    name: str
    status: Status
    sentence: str
    numbers: dict[str, float]
    n_needed: int | None = None
    """Held-out rows with which an UNSURE check would likely settle; None when more rows of the same
    kind would not, or nothing is open."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome with all its reasons."""

    outcome: GateOutcome
    checks: tuple[Check, ...]
    n_needed: int | None
    """Held-out rows for a clear answer (80 % power if things are as observed); None unless INCONCLUSIVE
    and within reach of more rows."""

    @property
    def exit_code(self) -> int:
        return self.outcome.exit_code

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Decision:
        """Inverse of `to_dict`; InputError when it is not one."""
        try:
            return TypeAdapter(cls).validate_python(dict(row))
        except ValidationError as error:
            raise InputError(f"not a gate decision: {error.errors()[0]['msg']}; run the gate again") from error


def decide(report: EvaluationReport, policy: GatePolicy) -> Decision:
    """Judge a candidate. Pure: the same report and policy always give the same decision.

    PROMOTE when every check passes; REJECT when one fails (the interval excludes success); else
    INCONCLUSIVE. Raises ConfigError when the report's intervals are at another level than the policy's.
    """
    if not math.isclose(report.alpha, policy.spent_alpha, rel_tol=1e-9):
        raise ConfigError(
            f"the report's bounds are at a one-sided level of {report.alpha:g}, the policy spends "
            f"{policy.spent_alpha:g} on this decision: evaluate again with alpha={policy.spent_alpha:g}"
        )
    checks = tuple(
        check
        for check in (
            _check_pairs(report, policy),
            _check_heldout(report, policy),
            _check_quality(report, policy),
            _check_cost(report, policy),
            _check_clusters(report, policy),
            _check_false_accept(report, policy),
        )
        if check is not None
    )
    states = {check.status for check in checks}
    if states == {Status.PASS}:
        return Decision(GateOutcome.PROMOTE, checks, None)
    if Status.FAIL in states:
        return Decision(GateOutcome.REJECT, checks, None)
    needed = [check.n_needed for check in checks if check.status is Status.UNSURE]
    known = [n for n in needed if n is not None]
    return Decision(GateOutcome.INCONCLUSIVE, checks, max(known) if len(known) == len(needed) else None)


def _check_pairs(report: EvaluationReport, policy: GatePolicy) -> Check:
    enough = report.n >= policy.min_pairs
    sentence = f"{report.n} held-out rows, at least {policy.min_pairs} asked"
    return Check(
        "enough rows",
        Status.PASS if enough else Status.UNSURE,
        sentence,
        {"n": report.n, "min_pairs": policy.min_pairs},
        None if enough else policy.min_pairs,
    )


def _check_heldout(report: EvaluationReport, policy: GatePolicy) -> Check:
    fresh = report.heldout_uses <= policy.heldout_decisions
    sentence = f"decision {report.heldout_uses} of {policy.heldout_decisions} on this held-out slice"
    return Check(
        "held-out slice not worn out",
        Status.PASS if fresh else Status.UNSURE,
        sentence if fresh else f"{sentence}: draw a fresh slice",
        {"uses": report.heldout_uses, "allowed": policy.heldout_decisions},
        None if fresh else report.n,
    )


def _check_quality(report: EvaluationReport, policy: GatePolicy) -> Check:
    paired, margin = report.overall.paired, policy.quality_margin
    found = paired.quality_difference
    if found.low > -margin:
        status = Status.PASS
    elif found.high < -margin:
        status = Status.FAIL
    else:
        status = Status.UNSURE
    return Check(
        "quality not inferior",
        status,
        f"served quality {_points(found.value)} points, from {_points(found.low)} to {_points(found.high)}; "
        f"the lower bound must be above {_points(-margin)}",
        {"difference": found.value, "low": found.low, "high": found.high, "margin": margin},
        _pairs_for_quality(report, policy) if status is Status.UNSURE else None,
    )


def _pairs_for_quality(report: EvaluationReport, policy: GatePolicy) -> int | None:
    """Rows for equally good sides; when the slice already has so many, for the difference as observed."""
    paired = report.overall.paired
    found, level = paired.quality_difference, policy.spent_alpha
    if paired.graded:
        return _scaled(found.n, found.value + policy.quality_margin, found.value - found.low, level)
    disagreement = max(paired.n_better + paired.n_worse, 1) / paired.n
    n = pairs_needed(disagreement, policy.quality_margin, power=POWER, alpha=level)
    if n > report.n:
        return n
    if found.value <= -policy.quality_margin:
        return None
    return max(
        report.n + 1,
        pairs_needed(disagreement, policy.quality_margin, power=POWER, alpha=level, difference=min(0.0, found.value)),
    )


def _check_cost(report: EvaluationReport, policy: GatePolicy) -> Check:
    paired, name = report.overall.paired, "cost lower"
    found, floor = paired.cost_saving, policy.min_cost_saving
    if found is None:
        return Check(name, Status.UNSURE, "the costs of the held-out rows are unknown", {}, None)
    unknown = paired.n_cost_unknown / paired.n
    numbers = {
        "saving": found.value,
        "low": found.low,
        "high": found.high,
        "floor": floor,
        "unknown": unknown,
    }
    sentence = (
        f"cost saving {found.value:.1%}, from {found.low:.1%} to {found.high:.1%}; "
        f"the lower bound must be above {floor:.1%}"
    )
    if unknown > policy.max_cost_unknown:
        sentence += f"; {unknown:.1%} of the rows have no cost, at most {policy.max_cost_unknown:.1%} may lack it"
        return Check(name, Status.UNSURE, sentence, numbers, None)
    if found.low > floor:
        return Check(name, Status.PASS, sentence, numbers)
    if found.high <= floor:
        return Check(name, Status.FAIL, sentence, numbers)
    needed = _scaled(report.n, found.value - floor, found.value - found.low, policy.spent_alpha)
    return Check(name, Status.UNSURE, sentence, numbers, needed)


def _check_clusters(report: EvaluationReport, policy: GatePolicy) -> Check:
    """Holm over the clusters. FAIL: a loss beyond the margin is shown; UNSURE: a loss is shown, and is
    beyond the margin as observed."""
    tested = [c for c in report.clusters if c.paired.n >= policy.min_cluster_pairs]
    margin, level = policy.cluster_margin, policy.spent_alpha
    beyond = holm([_p_lower(c, -margin, level) for c in tested])
    any_loss = holm([_p_lower(c, 0.0, level) for c in tested])
    failed = [c for c, p in zip(tested, beyond, strict=True) if p <= level]
    unsure = [
        c
        for c, p in zip(tested, any_loss, strict=True)
        if p <= level and c.paired.quality_difference.value < -margin and c not in failed
    ]
    worst = min(tested, key=lambda c: c.paired.quality_difference.value, default=None)
    numbers = {"tested": len(tested), "too_small": len(report.clusters) - len(tested), "margin": margin}
    if worst is not None:
        numbers["worst"] = worst.paired.quality_difference.value
    status = Status.FAIL if failed else Status.UNSURE if unsure else Status.PASS
    return Check(
        "no cluster regresses",
        status,
        _cluster_sentence(failed or unsure, worst, numbers),
        numbers,
        max(_rows_for_cluster(c, report, policy) for c in unsure) if status is Status.UNSURE else None,
    )


def _cluster_sentence(bad: list[Comparison], worst: Comparison | None, numbers: Mapping[str, float]) -> str:
    scope = f"{numbers['tested']:.0f} clusters tested, {numbers['too_small']:.0f} too small to test"
    if bad:
        named = ", ".join(f"{c.name} ({_points(c.paired.quality_difference.value)} points)" for c in bad)
        return f"{named}: served quality is lower by more than {100 * numbers['margin']:.1f} points; {scope}"
    if worst is None:
        return scope
    return f"{scope}; the lowest is {worst.name} at {_points(worst.paired.quality_difference.value)} points"


def _rows_for_cluster(comparison: Comparison, report: EvaluationReport, policy: GatePolicy) -> int:
    """Held-out rows that would bring enough of this cluster's to tell a loss beyond the margin or not."""
    paired = comparison.paired
    disagreement = max(paired.n_better + paired.n_worse, 1) / paired.n
    pairs = pairs_needed(disagreement, policy.cluster_margin, power=POWER, alpha=policy.spent_alpha)
    return max(report.n + 1, math.ceil(report.n * pairs / paired.n))


def _p_lower(comparison: Comparison, delta: float, level: float) -> float:
    """One-sided p-value against "this cluster's quality difference is at least delta"."""
    paired = comparison.paired
    if not paired.graded:
        return tango_p_less(paired.n_better, paired.n_worse, paired.n, delta)
    found = paired.quality_difference
    error = (found.high - found.value) / float(ndtri(1 - level))
    if error <= 0:
        return 0.0 if found.value < delta else 1.0
    return float(ndtr((found.value - delta) / error))


def _check_false_accept(report: EvaluationReport, policy: GatePolicy) -> Check | None:
    name, most = "accepted answers right", policy.max_false_accept
    if most is None:
        return None
    side = report.overall.candidate
    found = side.accepted_error
    if found is None:
        return Check(name, Status.PASS, "the candidate accepts nothing", {"max": most})
    numbers = {"rate": found.value, "low": found.low, "high": found.high, "n": found.n, "max": most}
    sentence = (
        f"{side.n_accepted_wrong} of {found.n} accepted answers are wrong ({found.value:.1%}, at most "
        f"{found.high:.1%}); the upper bound must be within {most:.1%}"
    )
    if found.high <= most:
        return Check(name, Status.PASS, sentence, numbers)
    if found.low > most:
        return Check(name, Status.FAIL, sentence, numbers)
    confidence = 1 - 2 * policy.spent_alpha
    accepted = None
    if found.value < 0.9 * most:
        accepted = smallest_n(
            lambda n: clopper_pearson(math.ceil(found.value * n), n, confidence).high <= most, found.n
        )
    needed = None if accepted is None else max(report.n + 1, math.ceil(report.n * accepted / found.n))
    return Check(name, Status.UNSURE, sentence, numbers, needed)


def _scaled(n: int, distance: float, half_width: float, alpha: float) -> int | None:
    """Rows that settle a bound `half_width` below its estimate, `distance` above what it must clear."""
    if distance <= 0:
        return None
    z = float(ndtri(1 - alpha))
    return max(n + 1, math.ceil(n * ((z + float(ndtri(POWER))) / z * half_width / distance) ** 2))


def _points(value: float) -> str:
    return f"{100 * value + 0.0:+.1f}"
