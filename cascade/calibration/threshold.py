"""The loosest threshold whose error among accepted is proven to keep to the target.

Learn-then-Test (Angelopoulos, Bates, Candes, Jordan and Lei 2021): a learning part fixes a grid of thresholds and
where to start; the testing part tests "the error among accepted exceeds the target" at each by the exact binomial
p-value (the same as asking whether the Clopper-Pearson bound is within the target). The tests form a fixed sequence
from the start to looser and looser thresholds, each at the full level, that ends at the first failure. A failure at the
very first test would escalate everything, so a tenth of the level is set aside for a second start at a stricter
threshold; a level passes on to the next test while tests succeed (the fallback procedure of Wiens and Dmitrienko 2005).
The chance that the chosen threshold breaks the promise is at most 1 - `confidence`, whatever the score is worth, since
everything that is chosen before the tests depends on the learning part alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import beta, betabinom, binom

from cascade.calibration.records import CalibrationConfig
from cascade.calibration.smooth import FloatArray, fit_logistic, normal_ranks

LEVELS = 50
"""Thresholds on the grid: acceptance levels of 2 %, 4 %, ... of the answers that pass the rules."""
SECOND_START = 5
"""Grid steps by which the second start is stricter."""
SECOND_SHARE = 0.1
"""Share of the level that the second start gets."""


@dataclass(frozen=True, slots=True)
class Part:
    """Three arrays of equal length: scores (-inf where unknown), acceptable at all, right."""

    scores: FloatArray
    acceptable: NDArray[np.bool_]
    correct: NDArray[np.bool_]

    def accepted(self, threshold: float) -> tuple[int, int]:
        """(accepted, wrong among them) at a threshold."""
        taken = self.acceptable & (self.scores >= threshold)
        return int(taken.sum()), int((taken & ~self.correct).sum())


@dataclass(frozen=True, slots=True)
class Found:
    """Outcome of the search; threshold None accepts nothing."""

    threshold: float | None
    why: str
    n_accepted: int
    n_wrong: int


def error_upper_bound(n_wrong: int, n: int, confidence: float) -> float:
    """One-sided Clopper-Pearson upper bound of a rate; 1.0 without data."""
    return 1.0 if n_wrong >= n else float(beta.ppf(confidence, n_wrong + 1, n - n_wrong))


def allowed_wrong(n: int, target: float, confidence: float) -> int | None:
    """How many of `n` accepted answers may be wrong so that the bound is within `target`; None where none may be."""
    allowed = int(_most_allowed(np.array([n]), target, 1 - confidence)[0])
    return None if allowed < 0 else allowed


def least_accepted(target: float, confidence: float) -> int:
    """Fewest accepted answers that, all right, prove an error of at most `target`."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - target))


def find_threshold(learn: Part, test: Part, config: CalibrationConfig) -> Found:
    """Search as the module says. `learn` and `test` must not share examples."""
    grid = _grid(learn)
    if not grid:
        return Found(None, "accepts nothing: no answer passed the rules with a score", 0, 0)
    needed, scored = least_accepted(config.max_error_accepted, config.confidence), int(test.acceptable.sum())
    if scored < needed:
        why = (
            f"accepts nothing: {scored} scored answers are left to test with, and at most "
            f"{config.max_error_accepted:.1%} wrong at {config.confidence:.0%} confidence takes at least {needed} "
            "accepted ones without an error; grade more answers"
        )
        return Found(None, why, 0, 0)
    start = _start(grid, learn, len(test.scores), config)
    place = _test_in_sequence(grid, start, test, config)
    shown = grid[start if place is None else place]
    n, wrong = test.accepted(shown)
    bound = error_upper_bound(wrong, n, config.confidence)
    numbers = (
        f"{wrong} of {n} accepted answers were wrong, at most {bound:.1%} at "
        f"{config.confidence:.0%} confidence, target {config.max_error_accepted:.1%}"
    )
    if place is None:
        return Found(None, f"accepts nothing: already at the most promising threshold {numbers}", 0, 0)
    return Found(shown, f"accepts {n} of {len(test.scores)}: {numbers}", n, wrong)


def _test_in_sequence(grid: list[float], start: int, test: Part, config: CalibrationConfig) -> int | None:
    """Place of the loosest threshold that passes; None where both starts fail."""
    alpha = 1 - config.confidence
    second = max(0, start - SECOND_START)
    own = dict.fromkeys(range(second, len(grid)), 0.0)
    own[second] += alpha * SECOND_SHARE
    own[start] += alpha * (1 - SECOND_SHARE)
    found, passed_on = None, 0.0
    for place, share in own.items():
        level = share + passed_on
        n, wrong = test.accepted(grid[place])
        # Rounding must not fail what passes exactly.
        passes = level > 0 and n > 0 and binom.cdf(wrong, n, config.max_error_accepted) <= level * (1 + 1e-12)
        if passes:
            found = place
        elif place >= start:
            break
        passed_on = level if passes else 0.0
    return found


def _grid(learn: Part) -> list[float]:
    """Falling thresholds at evenly spaced acceptance levels of the learning part."""
    scores = np.sort(learn.scores[learn.acceptable])[::-1]
    if not scores.size:
        return []
    places = np.ceil(np.arange(1, LEVELS + 1) / LEVELS * scores.size).astype(int) - 1
    return [float(score) for score in dict.fromkeys(scores[places].tolist())]


def _start(grid: list[float], learn: Part, test_size: int, config: CalibrationConfig) -> int:
    """Where testing begins: the threshold that is likeliest to pass, the loosest of those within half a point of it.

    The chance to pass is beta-binomial: errors seen above the threshold on the learning part, plus prior answers worth
    2 / target at the error rate that a logistic curve through the whole learning part gives. The learning part is
    small, so that the testing part is large; raw counts of a few dozen sure answers would be mostly luck.
    """
    target = config.max_error_accepted
    scores, wrong = learn.scores[learn.acceptable], ~learn.correct[learn.acceptable]
    x = normal_ranks(scores)
    columns = np.column_stack([np.ones(len(x)), x])
    smooth = expit(columns @ fit_logistic(columns, wrong, np.array([1e-3, 2e-2])))
    counts = np.array([learn.accepted(threshold) for threshold in grid], dtype=np.float64)
    rate = np.cumsum(smooth[np.argsort(-scores, kind="stable")])[counts[:, 0].astype(int) - 1] / counts[:, 0]
    # A standard deviation fewer than expected: with the expected number itself half of all tests would have less data.
    share, ratio = counts[:, 0] / len(learn.scores), test_size / len(learn.scores)
    few = test_size * share - np.sqrt(test_size * share * (1 - share) * (1 + ratio))
    n = np.maximum(1, few.astype(int))
    allowed = _most_allowed(n, target, 1 - config.confidence)
    prior = 2 / target
    a, b = counts[:, 1] + prior * rate + 0.5, counts[:, 0] - counts[:, 1] + prior * (1 - rate)
    chance = np.where(allowed < 0, 0.0, betabinom.cdf(np.maximum(allowed, 0), n, a, b))
    return int(np.flatnonzero(chance >= chance.max() - 0.005).max())


def _most_allowed(n: NDArray[np.int64], target: float, alpha: float) -> NDArray[np.int64]:
    """Largest count of errors in `n` (k,) answers whose p-value is at most `alpha`; -1 where there is none."""
    first = binom.ppf(alpha, n, target)
    passes = binom.cdf(first, n, target) <= alpha * (1 + 1e-12)
    return np.asarray(np.where(passes, first, first - 1), dtype=np.int64)
