"""The gate: report + policy -> PROMOTE, REJECT or INCONCLUSIVE, with every reason.

A candidate is promoted only when every check passes. Each check tests at the level that this decision may
spend, and all of them must succeed, so the probability of promoting a candidate that breaks any one requirement
stays within that level without a correction (intersection-union test, Berger 1982, Technometrics 24:295). Over the
decisions that one held-out slice serves, the levels add up to alpha (`GatePolicy.alpha_at`).
"""

from __future__ import annotations

import math

from cascade.errors import ConfigError
from evaluation.report import EvaluationReport
from promotion.checks import (
    Level,
    check_audit,
    check_cost,
    check_false_accept,
    check_flagship,
    check_heldout,
    check_judge,
    check_pairs,
    check_payback,
    check_quality,
)
from promotion.cluster_checks import check_clusters, check_solved
from promotion.decision import Check, Decision, GateOutcome, Status
from promotion.policy import GatePolicy

__all__ = ["Check", "Decision", "GateOutcome", "GatePolicy", "Status", "decide"]

CHECKS = (
    check_pairs,
    check_heldout,
    check_quality,
    check_judge,
    check_cost,
    check_flagship,
    check_payback,
    check_clusters,
    check_solved,
    check_false_accept,
    check_audit,
)


def decide(report: EvaluationReport, policy: GatePolicy) -> Decision:
    """Judge a candidate. Pure: the same report and policy always give the same decision.

    PROMOTE when every check passes; REJECT when one fails (the interval excludes success); else
    INCONCLUSIVE. Raises ConfigError when the report's intervals are at another level than the policy's.
    """
    level = policy.alpha_at(report.heldout_uses)
    if not math.isclose(report.alpha, level, rel_tol=1e-9):
        raise ConfigError(
            f"the report's bounds are at a one-sided level of {report.alpha:g}, the policy spends "
            f"{level:g} on decision {report.heldout_uses} of this held-out slice: evaluate again with alpha={level:g}"
        )
    found = (check(report, Level(policy, level)) for check in CHECKS)
    checks = tuple(check for check in found if check is not None)
    states = {check.status for check in checks}
    if states == {Status.PASS}:
        return Decision(GateOutcome.PROMOTE, checks, None, level)
    if Status.FAIL in states:
        return Decision(GateOutcome.REJECT, checks, None, level)
    needed = [check.n_needed for check in checks if check.status is Status.UNSURE]
    known = [n for n in needed if n is not None]
    return Decision(GateOutcome.INCONCLUSIVE, checks, max(known) if len(known) == len(needed) else None, level)
