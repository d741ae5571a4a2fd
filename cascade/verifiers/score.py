"""What every scoring verifier gives: one number per answer, with its price and its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cascade.trace import Answer, Query


@dataclass(frozen=True, slots=True)
class Score:
    """One verifier's opinion of one answer."""

    value: float | None
    """Higher is surer that the answer is right, on the verifier's own scale; None when it could not judge."""
    reason: str | None = None
    """Why there is no value, or what spoke against the answer, in a few words."""
    cost_usd: float | None = 0.0
    """What this opinion cost; None when unknown (a judge or a sample that reported no usage)."""
    latency_s: float | None = 0.0


class Scorer(Protocol):
    """A verifier that scores a batch of answers, in order: token confidence, self-consistency, a judge, a classifier.

    It never raises for one bad answer: that answer's value is None, with a reason, and is never accepted.
    """

    name: str

    def score(self, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Score]: ...
