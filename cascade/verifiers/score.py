"""What every scoring verifier gives: one number per answer, with its price and its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cascade.errors import InputError
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


class TooLittleData(InputError):  # noqa: N818 - it says what happened
    """The graded answers are too few, or all alike, to learn from."""


class Scorer(Protocol):
    """A verifier that scores a batch of answers, in order: token confidence, self-consistency, a judge, a classifier.

    It never raises for one bad answer: that answer's value is None, with a reason, and is never accepted.
    """

    @property
    def name(self) -> str:
        """Name in accounts and reasons; no two scorers of a verifier share one."""

    def score(self, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Score]:
        """One opinion per answer, in order."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form with a key "kind", from which a ScorerLoader builds the scorer again."""


class ScorerLoader(Protocol):
    """Builds a scorer from its `to_dict` form. Raises ConfigError or InputError where it cannot."""

    def __call__(self, row: dict[str, Any]) -> Scorer: ...


@runtime_checkable
class Trainable(Protocol):
    """A scorer that has first to learn from graded answers."""

    @property
    def name(self) -> str:
        """Name of the scorer that it becomes."""

    def fit(
        self,
        queries: Sequence[Query],
        answers: Sequence[Answer],
        references: Sequence[str],
        correct: np.ndarray,
        *,
        by_fold: bool = False,
    ) -> tuple[Scorer, list[Score]]:
        """The fitted scorer, and the scores of the very answers that it learnt from, each by a model that has not
        seen that answer (cross-fitting): their scores by a model of all answers would flatter it.

        `references`: the right answers as graded against; `correct`: (n,) bool. `by_fold`: the scorer keeps those
        models and asks the one of the query's fold, so that it scores fresh answers just as these; else it is one
        model of all answers. Raises TooLittleData where nothing can be learnt: the scorer is then left out of the
        chain.
        """
