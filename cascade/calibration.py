"""From a confidence score to a decision: P(wrong), and a threshold with a guarantee.

The threshold comes from Learn-then-Test (Angelopoulos, Bates, Candes, Jordan and Lei 2021, "Learn then
Test", split fixed-sequence testing): one half of the data picks the signal, the grid of thresholds and where
to start; the other half tests the thresholds one after the other, from strict to loose, and stops at the
first that fails. A test passes when the Clopper-Pearson upper bound of the error among accepted answers is
within the target. So the chance that the chosen threshold lets through more than `max_error_accepted` is at
most 1 - `confidence`, whatever the score is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cascade.confidence import SIGNALS, Signal
from cascade.errors import InputError

LEVELS = 50
"""Thresholds tried: acceptance levels of 2 %, 4 %, ... of the answers that pass the rules."""


class CalibrationConfig(BaseModel):
    """What the accepted answers must keep to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_error_accepted: float = Field(default=0.05, gt=0, lt=1)
    """Highest tolerated share of wrong answers among the accepted."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    signal: Literal["auto"] | Signal = "auto"
    """Score to judge by; "auto" takes the one that ranks best (AUROC) on the first part of the data."""
    selection_share: float | None = Field(default=None, gt=0, lt=1)
    """Share that picks signal and grid; None means a half with "auto", a quarter with a given signal."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class CalibrationExample:
    """One graded answer."""

    features: Mapping[str, float]
    """Scores by signal, higher = surer (`confidence_features`)."""
    passes_rules: bool
    correct: bool


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted verifier threshold with what is known of it."""

    signal: str
    scores: tuple[float, ...]
    """Ascending knots of the isotonic fit."""
    p_wrong: tuple[float, ...]
    """P(wrong) at each knot, falling."""
    threshold: float | None
    """Answers that score at least this are accepted; None accepts nothing."""
    why: str
    """How the threshold came about, in one sentence."""
    n: int
    """Examples used in all."""
    n_tested: int
    """Of these, examples in the part that tested the threshold; the next two are counts among them."""
    n_accepted: int
    n_wrong_accepted: int
    error_bound: float | None
    """Upper confidence bound of the error among accepted; None when nothing is accepted."""
    max_error_accepted: float
    confidence: float
    auroc: float | None
    """How well the score tells right from wrong, on the testing part; None where only one kind is there."""
    ece: float | None
    """Expected calibration error of P(wrong), 10 equal-width bins, on the part that it was not fitted on."""

    @property
    def acceptance_rate(self) -> float | None:
        """Share of the testing part that is accepted."""
        return self.n_accepted / self.n_tested if self.n_tested else None

    def p_wrong_at(self, score: float) -> float | None:
        """Calibrated P(wrong) of a score, linear between knots; None where nothing could be fitted."""
        return float(np.interp(score, self.scores, self.p_wrong)) if self.scores else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        row = asdict(self)
        return row | {"scores": list(self.scores), "p_wrong": list(self.p_wrong)}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Calibration:
        """Inverse of `to_dict`. Raises InputError for a row that is not one."""
        try:
            return cls(**(row | {"scores": tuple(row["scores"]), "p_wrong": tuple(row["p_wrong"])}))
        except (KeyError, TypeError) as error:
            raise InputError(f"not a calibration record: {error}; fit the verifier again") from error


@dataclass(frozen=True, slots=True)
class _Part:
    """Three arrays of equal length: scores (-inf where unknown), acceptable at all, right."""

    scores: np.ndarray
    acceptable: np.ndarray
    correct: np.ndarray

    def accepted(self, threshold: float) -> tuple[int, int]:
        """(accepted, wrong among them) at a threshold."""
        taken = self.acceptable & (self.scores >= threshold)
        return int(taken.sum()), int((taken & ~self.correct).sum())


def error_upper_bound(n_wrong: int, n: int, confidence: float) -> float:
    """One-sided Clopper-Pearson upper bound of a rate; 1.0 without data."""
    from scipy.stats import beta

    return 1.0 if n_wrong >= n else float(beta.ppf(confidence, n_wrong + 1, n - n_wrong))


def fit_calibration(
    examples: Sequence[CalibrationExample], config: CalibrationConfig, signal: str | None = None
) -> Calibration:
    """Fit P(wrong) and the loosest threshold that keeps the error among accepted within the target.

    `signal` names the feature to judge by, where it is not one of the configured confidence signals.

    Answers that fail the rules or carry no score are never accepted and never count among the accepted.
    Deterministic for a seed. Raises InputError with fewer than two examples.
    """
    if len(examples) < 2:
        raise InputError(f"{len(examples)} graded answers cannot calibrate a verifier; give some hundreds")
    first, second = split_parts(len(examples), config)
    signal = signal or _choose_signal([examples[i] for i in first], config)
    learn, test = (_part([examples[i] for i in part], signal) for part in (first, second))
    threshold, why = _find_threshold(learn, test, config)
    n_accepted, n_wrong = (0, 0) if threshold is None else test.accepted(threshold)
    knots = _isotonic(_part(examples, signal))
    return Calibration(
        signal=signal,
        scores=knots[0],
        p_wrong=knots[1],
        threshold=threshold,
        why=why,
        n=len(examples),
        n_tested=len(second),
        n_accepted=n_accepted,
        n_wrong_accepted=n_wrong,
        error_bound=None if threshold is None else error_upper_bound(n_wrong, n_accepted, config.confidence),
        max_error_accepted=config.max_error_accepted,
        confidence=config.confidence,
        auroc=_auroc(test.scores[test.acceptable], test.correct[test.acceptable]),
        ece=_calibration_error(_isotonic(learn), test),
    )


def split_parts(n: int, config: CalibrationConfig) -> tuple[np.ndarray, np.ndarray]:
    """(learning, testing) positions of n examples: all that is fitted to data sees the first, the second tests it."""
    share = config.selection_share or (0.5 if config.signal == "auto" else 0.25)
    order = np.random.default_rng(config.seed).permutation(n)
    cut = min(max(1, round(n * share)), n - 1)
    return order[:cut], order[cut:]


def _choose_signal(examples: Sequence[CalibrationExample], config: CalibrationConfig) -> str:
    """The signal of best AUROC among those that nine in ten passing answers carry; the first of equals."""
    if config.signal != "auto":
        return config.signal
    passing = [example for example in examples if example.passes_rules]
    best, best_auroc = str(SIGNALS[0]), -1.0
    for signal in sorted({name for example in passing for name in example.features}, key=_rank):
        part = _part(passing, signal)
        if part.acceptable.sum() < 0.9 * len(passing):
            continue
        auroc = _auroc(part.scores[part.acceptable], part.correct[part.acceptable])
        if auroc is not None and auroc > best_auroc:
            best, best_auroc = signal, auroc
    return best


def _rank(signal: str) -> tuple[int, str]:
    return (list(SIGNALS).index(signal) if signal in SIGNALS else len(SIGNALS), signal)


def _part(examples: Sequence[CalibrationExample], signal: str) -> _Part:
    scores = np.array([example.features.get(signal, -np.inf) for example in examples], dtype=np.float64)
    passes = np.array([example.passes_rules for example in examples], dtype=bool)
    correct = np.array([example.correct for example in examples], dtype=bool)
    return _Part(scores, passes & np.isfinite(scores), correct)


def _find_threshold(learn: _Part, test: _Part, config: CalibrationConfig) -> tuple[float | None, str]:
    grid = _grid(learn)
    if not grid:
        return None, "accepts nothing: no answer passed the rules with a score"
    start = _start(grid, learn, len(test.scores), config)
    found: float | None = None
    for threshold in grid[start:]:
        n, wrong = test.accepted(threshold)
        if error_upper_bound(wrong, n, config.confidence) > config.max_error_accepted:
            break
        found = threshold
    shown = found if found is not None else grid[start]
    n, wrong = test.accepted(shown)
    bound = error_upper_bound(wrong, n, config.confidence)
    numbers = (
        f"{wrong} of {n} accepted answers were wrong, at most {bound:.1%} at "
        f"{config.confidence:.0%} confidence, target {config.max_error_accepted:.1%}"
    )
    if found is not None:
        return found, f"accepts {n} of {len(test.scores)}: {numbers}"
    return None, f"accepts nothing: already at the most promising threshold {numbers}"


def _grid(learn: _Part) -> list[float]:
    """Falling thresholds at evenly spaced acceptance levels of the learning part."""
    scores = np.sort(learn.scores[learn.acceptable])[::-1]
    if not scores.size:
        return []
    places = np.ceil(np.arange(1, LEVELS + 1) / LEVELS * scores.size).astype(int) - 1
    return [float(score) for score in dict.fromkeys(scores[places].tolist())]


def _start(grid: list[float], learn: _Part, test_size: int, config: CalibrationConfig) -> int:
    """Where testing begins: the threshold whose test is likeliest to pass, the loosest of equals.

    Each threshold's error rate on the learning part, drawn towards twice the target by two pseudo-errors in
    1 / target answers, predicts what the testing part will show. Without the shrinkage a handful of sure answers
    without an error looks best and then fails for want of data. A stricter start would waste the sequence likewise.
    """
    from scipy.stats import binom

    target, scale = config.max_error_accepted, test_size / len(learn.scores)
    evidence = []
    for threshold in grid:
        n, wrong = learn.accepted(threshold)
        rate = (wrong + 2) / (n + 1 / target)
        evidence.append(float(binom.cdf(np.ceil(rate * n * scale), int(n * scale), target)))
    return max(i for i, p_value in enumerate(evidence) if p_value <= min(evidence) * (1 + 1e-9))


def _isotonic(part: _Part) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots (scores, P(wrong)) of an isotonic fit over acceptable answers; empty where there are none."""
    from sklearn.isotonic import IsotonicRegression

    scores, wrong = part.scores[part.acceptable], ~part.correct[part.acceptable]
    if not scores.size:
        return (), ()
    fit = IsotonicRegression(y_min=0.0, y_max=1.0, increasing=False).fit(scores, wrong.astype(np.float64))
    return tuple(fit.X_thresholds_.tolist()), tuple(fit.y_thresholds_.tolist())


def _auroc(scores: np.ndarray, correct: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score

    if correct.all() or not correct.any():
        return None
    return float(roc_auc_score(correct, scores))


def _calibration_error(knots: tuple[tuple[float, ...], tuple[float, ...]], test: _Part, bins: int = 10) -> float | None:
    """Expected calibration error (Guo et al. 2017) of `knots` on `test`."""
    scores, wrong = test.scores[test.acceptable], ~test.correct[test.acceptable]
    if not knots[0] or not scores.size:
        return None
    predicted = np.interp(scores, *knots)
    where = np.minimum((predicted * bins).astype(int), bins - 1)
    gaps = [abs(wrong[where == b].sum() - predicted[where == b].sum()) for b in range(bins)]
    return float(sum(gaps) / scores.size)
