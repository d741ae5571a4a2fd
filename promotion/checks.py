"""The gate's checks over all held-out rows: each is report + policy -> Check, or None where it does not apply."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtri

from evaluation.intervals import Interval, clopper_pearson, pairs_needed, smallest_n
from evaluation.report import EvaluationReport
from promotion.decision import Check, Status
from promotion.policy import GatePolicy

POWER = 0.8  # with which `n_needed` would settle an open check


@dataclass(frozen=True, slots=True)
class Level:
    """The policy, and the one-sided level that this decision spends."""

    policy: GatePolicy
    alpha: float


def check_pairs(report: EvaluationReport, level: Level) -> Check:
    """Enough held-out rows for any promotion."""
    least = level.policy.min_pairs
    enough = report.n >= least
    return Check(
        "enough rows",
        Status.PASS if enough else Status.UNSURE,
        f"{report.n} held-out rows, at least {least} asked",
        {"n": report.n, "min_pairs": least},
        None if enough else least,
    )


def check_heldout(report: EvaluationReport, level: Level) -> Check:
    """The slice has served no more decisions than were declared."""
    allowed = level.policy.heldout_decisions
    fresh = allowed is None or report.heldout_uses <= allowed
    sentence = f"decision {report.heldout_uses}{'' if allowed is None else f' of {allowed}'} on this held-out slice"
    numbers: dict[str, float] = {"uses": report.heldout_uses, "alpha": level.alpha}
    return Check(
        "held-out slice not worn out",
        Status.PASS if fresh else Status.UNSURE,
        f"{sentence}, at a level of {100 * level.alpha:.2g} %" if fresh else f"{sentence}: draw a fresh slice",
        numbers if allowed is None else {**numbers, "allowed": allowed},
        None if fresh else report.n,
    )


def check_quality(report: EvaluationReport, level: Level) -> Check:
    """Served quality is non-inferior: the lower bound of the paired difference is above -margin."""
    margin, found = level.policy.quality_margin, report.overall.paired.quality_difference
    status = _above(found, -margin)
    return Check(
        "quality not inferior",
        status,
        f"served quality {points(found.value)} points, from {points(found.low)} to {points(found.high)}; "
        f"the lower bound must be above {points(-margin)}",
        {"difference": found.value, "low": found.low, "high": found.high, "margin": margin},
        _pairs_for_quality(report, level) if status is Status.UNSURE else None,
    )


def _pairs_for_quality(report: EvaluationReport, level: Level) -> int | None:
    """Rows for equally good sides; when the slice already has so many, for the difference as observed."""
    paired, margin = report.overall.paired, level.policy.quality_margin
    found = paired.quality_difference
    if paired.graded:
        return scaled(found.n, found.value + margin, found.value - found.low, level.alpha)
    disagreement = max(paired.n_better + paired.n_worse, 1) / paired.n
    n = pairs_needed(disagreement, margin, power=POWER, alpha=level.alpha)
    if n > report.n:
        return n
    if found.value <= -margin:
        return None
    observed = min(0.0, found.value)
    return max(report.n + 1, pairs_needed(disagreement, margin, power=POWER, alpha=level.alpha, difference=observed))


def check_judge(report: EvaluationReport, level: Level) -> Check | None:
    """A pairwise judge, where there is one, prefers the candidate's served answers not less."""
    judged, policy = report.judged, level.policy
    if judged is None:
        return None
    found, margin = judged.difference, policy.judge_margin
    missing = judged.n_missing / judged.n
    numbers = {"difference": found.value, "low": found.low, "high": found.high, "margin": margin, "missing": missing}
    sentence = (
        f"the judge prefers the candidate in {judged.n_better}, the champion in {judged.n_worse} of {judged.n} rows: "
        f"{points(found.value)} points, from {points(found.low)} to {points(found.high)}; "
        f"the lower bound must be above {points(-margin)}"
    )
    name = "judge prefers no less"
    if missing > policy.max_judge_missing:
        sentence += f"; {missing:.1%} of its verdicts are missing, at most {policy.max_judge_missing:.1%} may be"
        return Check(name, Status.UNSURE, sentence, numbers, None)
    status = _above(found, -margin)
    needed = scaled(report.n, found.value + margin, found.value - found.low, level.alpha)
    return Check(name, status, sentence, numbers, needed if status is Status.UNSURE else None)


def check_cost(report: EvaluationReport, level: Level) -> Check:
    """Cost is lower: the lower bound of the relative saving is above the floor."""
    paired, name, policy = report.overall.paired, "cost lower", level.policy
    found, floor = paired.cost_saving, policy.min_cost_saving
    if found is None:
        return Check(name, Status.UNSURE, "the costs of the held-out rows are unknown", {}, None)
    unknown = paired.n_cost_unknown / paired.n
    numbers = {"saving": found.value, "low": found.low, "high": found.high, "floor": floor, "unknown": unknown}
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
    return Check(
        name,
        Status.UNSURE,
        sentence,
        numbers,
        scaled(report.n, found.value - floor, found.value - found.low, level.alpha),
    )


def check_flagship(report: EvaluationReport, level: Level) -> Check | None:
    """The candidate's cascade is cheaper than always asking the flagship."""
    if not level.policy.beat_flagship:
        return None
    name, found = "cheaper than always the flagship", report.overall.candidate.ratio_to_flagship
    if found is None:
        return Check(name, Status.UNSURE, "what always asking the flagship would cost is unknown", {}, None)
    sentence = (
        f"costs {found.value:.1%} of always asking the flagship, from {found.low:.1%} to {found.high:.1%}; "
        "the upper bound must be below 100 %"
    )
    numbers = {"ratio": found.value, "low": found.low, "high": found.high}
    if found.high < 1:
        return Check(name, Status.PASS, sentence, numbers)
    if found.low >= 1:
        return Check(name, Status.FAIL, sentence, numbers)
    return Check(
        name, Status.UNSURE, sentence, numbers, scaled(report.n, 1 - found.value, found.high - found.value, level.alpha)
    )


def check_payback(report: EvaluationReport, level: Level) -> Check | None:
    """The saving has paid for the run within the policy's number of queries."""
    most, name = level.policy.max_payback_queries, "pays back in time"
    if most is None:
        return None
    saved, cost = report.overall.paired.saved_per_1000_usd, report.run_cost_usd
    if saved is None or cost is None:
        what = "saving" if saved is None else "run's cost"
        return Check(name, Status.UNSURE, f"the {what} is unknown", {"max": most}, None)
    least = cost / most * 1000
    sentence = (
        f"the run cost ${cost:,.2f} and saves ${saved.value:,.3f} per 1,000 queries, from ${saved.low:,.3f} to "
        f"${saved.high:,.3f}; to pay back within {most:,} queries the lower bound must reach ${least:,.3f}"
    )
    numbers = {"saved": saved.value, "low": saved.low, "high": saved.high, "least": least, "max": most}
    if saved.low >= least:
        return Check(name, Status.PASS, sentence, numbers)
    if saved.high < least:
        return Check(name, Status.FAIL, sentence, numbers)
    return Check(
        name,
        Status.UNSURE,
        sentence,
        numbers,
        scaled(report.n, saved.value - least, saved.value - saved.low, level.alpha),
    )


def check_false_accept(report: EvaluationReport, level: Level) -> Check | None:
    """The candidate's verifier accepts few wrong answers on the held-out rows."""
    name, most = "accepted answers right", level.policy.max_false_accept
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
    accepted = _accepted_needed(found, most, level.alpha)
    needed = None if accepted is None else max(report.n + 1, math.ceil(report.n * accepted / found.n))
    return Check(name, Status.UNSURE, sentence, numbers, needed)


def check_audit(report: EvaluationReport, level: Level) -> Check | None:
    """The verifier in service accepts few wrong answers, as the audit slice tells."""
    most, audit, name = level.policy.max_audit_false_accept, report.audit, "audited answers right"
    if most is None:
        return None
    if audit is None or audit.false_accept is None:
        return Check(name, Status.UNSURE, "no accepted answer was audited: raise serve.audit_rate", {"max": most}, None)
    found = audit.false_accept
    sentence = (
        f"{audit.n_wrong} of {audit.n} audited answers of {audit.version} were wrong: {found.value:.1%} of what it "
        f"accepted in service, from {found.low:.1%} to {found.high:.1%}; the upper bound must be within {most:.1%}"
    )
    numbers = {"rate": found.value, "low": found.low, "high": found.high, "n": audit.n, "max": most}
    if found.high <= most:
        return Check(name, Status.PASS, sentence, numbers)
    # More held-out rows do not help here: more audited traffic does.
    return Check(name, Status.FAIL if found.low > most else Status.UNSURE, sentence, numbers, None)


def _accepted_needed(found: Interval, most: float, alpha: float) -> int | None:
    """Accepted answers with which an unchanged error rate would lie within the bound."""
    if found.value >= 0.9 * most:
        return None
    confidence = 1 - 2 * alpha
    return smallest_n(lambda n: clopper_pearson(math.ceil(found.value * n), n, confidence).high <= most, found.n)


def _above(found: Interval, bound: float) -> Status:
    if found.low > bound:
        return Status.PASS
    return Status.FAIL if found.high < bound else Status.UNSURE


def scaled(n: int, distance: float, half_width: float, alpha: float) -> int | None:
    """Rows that settle a bound `half_width` away from its estimate, `distance` from what it must clear."""
    if distance <= 0:
        return None
    z = float(ndtri(1 - alpha))
    return max(n + 1, math.ceil(n * ((z + float(ndtri(POWER))) / z * half_width / distance) ** 2))


def points(value: float) -> str:
    """A difference of rates in percentage points."""
    return f"{100 * value + 0.0:+.1f}"
