"""How sure the model was of its own answer, by its log-probabilities: free, and there with the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cascade.confidence import confidence_score
from cascade.trace import Answer, Query
from cascade.verifiers.score import Score


@dataclass(frozen=True, slots=True)
class TokenConfidenceScorer:
    """One signal of `cascade.confidence` as a score. An answer without log-probabilities gets no value."""

    signal: str

    @property
    def name(self) -> str:
        return self.signal

    def score(self, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Score]:
        """The signal of each answer, higher = surer. Raises ConfigError for an unknown signal."""
        return [self._one(answer) for _, answer in zip(queries, answers, strict=True)]

    def _one(self, answer: Answer) -> Score:
        value = confidence_score(answer, self.signal)
        return Score(value, None if value is not None else f"no {self.signal} in the answer")

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "token_confidence", "signal": self.signal}
