"""From per-token log-probabilities to the numbers that verifiers judge by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from cascade.errors import ConfigError
from cascade.trace import Answer, TokenConfidence

Signal = Literal["mean_logprob", "min_logprob", "p10_logprob", "margin"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)


def summarise_tokens(
    logprobs: Sequence[float] | np.ndarray, margins: Sequence[float] | np.ndarray | None
) -> TokenConfidence | None:
    """Summary of one answer.

    `logprobs` holds the natural log-probability of each generated token, `margins` the difference p1 - p2 of
    the two likeliest tokens at each step (None where unknown). Returns None for an answer without tokens or
    with a log-probability that is not a number, since neither says anything of the model's confidence.
    """
    values = np.asarray(logprobs, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        return None
    return TokenConfidence(
        n_tokens=int(values.size),
        mean_logprob=float(values.mean()),
        min_logprob=float(values.min()),
        p10_logprob=float(np.quantile(values, 0.1)),
        margin=None if margins is None else float(1.0 - np.asarray(margins, dtype=np.float64).mean()),
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
