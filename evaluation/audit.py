"""The audit slice: how many wrong answers the verifier in service accepts, from the few that were audited.

An accepted answer is audited with a known probability (its propensity), and weighs 1 / propensity: the estimate is
of all that was accepted, not of what happened to be audited (Horvitz and Thompson 1952; Hajek's ratio form).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cascade.grade import grade, reference_text
from cascade.trace import Trace
from evaluation.intervals import Interval, weighted_rate


@dataclass(frozen=True, slots=True)
class AuditSlice:
    """What the audited answers say of one version in service."""

    version: str
    n_accepted: int
    """Answers that it accepted, audited or not."""
    n: int
    """Audited answers among them."""
    n_wrong: int
    n_never: int
    """Accepted answers that could not have been audited (propensity 0): the estimate says nothing of them."""
    false_accept: Interval | None
    """Share of wrong answers among the accepted, inverse-propensity weighted; None without an audited one."""


def audit_slice(
    traces: Iterable[Trace], version: str, *, grade_kind: str, reference_kind: str, confidence: float
) -> AuditSlice:
    """The audit of what `version` accepted. An answer is wrong when its grade is below 1.

    Raises InputError when answers are graded by reference and a query carries none.
    """
    accepted = [t for t in traces if t.cheap_version == version and not t.escalated]
    audited = [t for t in accepted if t.audited and t.flagship is not None and t.audit_propensity > 0]
    wrong = []
    for trace in audited:
        assert trace.flagship is not None and trace.cheap is not None  # accepted, and audited
        reference = reference_text(trace.query, trace.flagship, reference_kind)
        wrong.append(float(grade(trace.cheap.text, reference, grade_kind) < 1.0))
    weights = [1.0 / trace.audit_propensity for trace in audited]
    return AuditSlice(
        version=version,
        n_accepted=len(accepted),
        n=len(audited),
        n_wrong=int(sum(wrong)),
        n_never=sum(trace.audit_propensity <= 0 for trace in accepted),
        false_accept=weighted_rate(wrong, weights, confidence) if audited else None,
    )
