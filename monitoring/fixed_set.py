"""The verifier in service on a fixed set of answers whose right verdict is known.

The set does not move, so whatever moves here is the verifier: traffic that drifts leaves these rows alone, and a
verifier that turned lenient (a threshold moved by hand, a judge model replaced behind its name) shows at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Protocol

from cascade.trace import Answer, Query, Verdict
from evaluation.intervals import Interval, clopper_pearson
from monitoring.policy import MonitorPolicy
from monitoring.records import Check, Name, Point, Status, unknown
from monitoring.reference import FixedRow


class Judge(Protocol):
    """What a verifier must offer here."""

    def judge(self, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Verdict]:
        """Accept or reject cheap answers, in order."""
        ...


def check_verifier(rows: Sequence[FixedRow], verifier: Judge | None, week: date, policy: MonitorPolicy) -> Check:
    """Replay the verifier. The value is the share of once rejected answers that it accepts now or, where more of the
    once accepted are rejected, that share as a negative number; each with its exact binomial interval.

    `week` is when the verifier came into service.
    """
    if verifier is None:
        return unknown(Name.VERIFIER, "the version in service has no verifier: everything escalates")
    if not rows:
        return unknown(Name.VERIFIER, "no answer of this model is kept that the verifier could be replayed on")
    verdicts = verifier.judge([row.query for row in rows], [row.answer for row in rows])
    now = [verdict.accepted for verdict in verdicts]
    newly = [yes for yes, row in zip(now, rows, strict=True) if not row.accepted]
    lost = [not yes for yes, row in zip(now, rows, strict=True) if row.accepted]
    up, down = _share_of(newly, policy.confidence), _share_of(lost, policy.confidence)
    lenient, strict = (found is not None and found.low > policy.verifier_margin for found in (up, down))
    # A verifier that moved both ways is named by the side that harms users.
    falling = not lenient and down is not None and (strict or up is None or down.value > up.value)
    shown = down if falling else up
    assert shown is not None
    value, low, high = (-shown.value, -shown.high, -shown.low) if falling else (shown.value, shown.low, shown.high)
    before, after = _error(rows, [row.accepted for row in rows]), _error(rows, now)
    return Check(
        name=Name.VERIFIER,
        status=Status.ALARM if lenient or strict else Status.OK,
        sentence=(
            f"of {len(newly):,} kept answers that were rejected it accepts {sum(newly):,}, of {len(lost):,} that were "
            f"accepted it rejects {sum(lost):,}; wrong among the accepted: {_words(before)} then, {_words(after)} now"
        ),
        bar=policy.verifier_margin, value=value, low=low, high=high, n=shown.n,
        began=week if lenient or strict else None,
        series=(Point(week, value, low, high, shown.n),),
        baseline=0.0, falling=falling,
    )  # fmt: skip


def _share_of(flags: Sequence[bool], confidence: float) -> Interval | None:
    return clopper_pearson(sum(flags), len(flags), confidence) if flags else None


def _error(rows: Sequence[FixedRow], accepted: Sequence[bool]) -> float | None:
    """Share of wrong answers among the accepted of known rightness, each row for the traffic that it stands for."""
    taken = [row for row, yes in zip(rows, accepted, strict=True) if yes and row.right is not None]
    total = sum(row.weight for row in taken)
    return sum(row.weight for row in taken if not row.right) / total if total else None


def _words(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"
