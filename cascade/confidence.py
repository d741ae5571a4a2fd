"""From per-token log-probabilities to the numbers that verifiers judge by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from cascade.errors import ConfigError
from cascade.trace import Answer, TokenConfidence

Signal = Literal["mean_logprob", "min_logprob", "p10_logprob", "margin"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)
NOT_LISTED = -9999.0
"""What OpenAI's API and vLLM send for a token whose log-probability they do not tell; no number to reckon with."""


def summarise_tokens(
    logprobs: Sequence[float] | np.ndarray, margins: Sequence[float] | np.ndarray | None
) -> TokenConfidence | None:
    """Summary of one answer.

    `logprobs` holds the natural log-probability of each generated token, `margins` the difference p1 - p2 of
    the two likeliest tokens at each step (None where unknown), whichever token was then chosen. Returns None for an
    answer without tokens or with a log-probability that is not known, since neither says anything of the model's
    confidence. Mean and quantile (linear interpolation) are over tokens, each weighing the same.

    Margin: UCCI's u = 1 - mean(p1 - p2), 0 where every token was certain.
    """
    values = np.asarray(logprobs, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all() or (values <= NOT_LISTED).any():
        return None
    gaps = None if margins is None else np.asarray(margins, dtype=np.float64)
    return TokenConfidence(
        n_tokens=int(values.size),
        mean_logprob=float(values.mean()),
        min_logprob=float(values.min()),
        p10_logprob=float(np.quantile(values, 0.1)),
        margin=None if gaps is None or not np.isfinite(gaps).all() else float(1.0 - gaps.mean()),
    )


def confidence_score(answer: Answer, signal: str) -> float | None:
    """How sure the model was of `answer`, higher = surer; None where the answer carries no such signal.

    Signals: "mean_logprob", "min_logprob", "p10_logprob" (natural log), and "margin", which is UCCI's
    u = 1 - mean(p1 - p2) with its sign turned. Raises ConfigError for another name.
    """
    if signal not in SIGNALS:
        raise ConfigError(f"signal is {signal!r}; use one of {', '.join(SIGNALS)}")
    if answer.confidence is None:
        return None
    value: float | None = getattr(answer.confidence, signal)
    if value is None:
        return None
    return -value if signal == "margin" else value


def confidence_features(answer: Answer) -> dict[str, float]:
    """All signals that `answer` carries, by name; empty where it has no log-probabilities."""
    scores = {signal: confidence_score(answer, signal) for signal in SIGNALS}
    return {signal: score for signal, score in scores.items() if score is not None}


def missing_logprobs(answers: Sequence[Answer], signal: str) -> str | None:
    """One sentence when no answer with text carries `signal`, so that a verifier could accept none; else None."""
    told = [answer for answer in answers if answer.text.strip()]
    if not told or any(confidence_score(answer, signal) is not None for answer in told):
        return None
    bare = all(answer.confidence is None for answer in told)
    what = "log-probabilities" if bare else "second choices (top_logprobs)"
    return (
        f"{told[0].model} sent no {what} with its first {len(told)} answers and the verifier judges by {signal!r}, so "
        "none can be accepted: set logprobs: true for the tier, or use an endpoint that returns them or another score"
    )
