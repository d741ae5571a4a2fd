"""How good probabilities and scores are, on data that they were not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cascade.errors import InputError

Bins = Literal["mass", "width"]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Answers of like predicted probability."""

    n: int
    predicted: float
    """Mean prediction."""
    observed: float
    """Share in which it happened."""


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """Error among the accepted, by how much is accepted, from the surest answer to all of them."""

    coverage: tuple[float, ...]
    """Share accepted; one point per distinct score, rising to 1."""
    risk: tuple[float, ...]
    """Share of wrong answers among them."""
    aurc: float
    """Area under the curve (Geifman and El-Yaniv 2017), answers of equal score in random order; lower is better."""

    def coverage_at(self, risk: float) -> float:
        """Largest share whose error is at most `risk`; 0.0 where none is. Known in hindsight only: no promise."""
        return max((c for c, r in zip(self.coverage, self.risk, strict=True) if r <= risk), default=0.0)


@dataclass(frozen=True, slots=True)
class CalibrationMetrics:
    """Of predicted P(wrong) against what was wrong."""

    n: int
    ece_mass: float
    """Expected calibration error over 15 bins of equal mass."""
    ece_width: float
    """The same over 15 bins of equal width (Guo et al. 2017)."""
    brier: float
    auroc: float | None
    """None where all answers are right or all wrong."""
    aurc: float


def reliability_bins(
    predicted: ArrayLike, happened: ArrayLike, bins: int = 15, kind: Bins = "mass"
) -> tuple[ReliabilityBin, ...]:
    """Group `predicted` (n,) probabilities into at most `bins`, and compare each with what `happened` (n,) of 0/1.

    "mass" sorts and cuts into parts of equal size (equal predictions stay together), "width" cuts 0..1 evenly.
    Raises InputError without data or with a prediction outside 0..1.
    """
    p, y = _checked(predicted, happened)
    if kind == "width":
        where = np.minimum((p * bins).astype(int), bins - 1)
    else:
        # The first place of a value among the sorted ones keeps equal predictions in one bin.
        where = np.searchsorted(np.sort(p), p, side="left") * bins // p.size
    return tuple(
        ReliabilityBin(int(inside.sum()), float(p[inside].mean()), float(y[inside].mean()))
        for inside in (where == b for b in np.unique(where))
    )


def expected_calibration_error(predicted: ArrayLike, happened: ArrayLike, bins: int = 15, kind: Bins = "mass") -> float:
    """Mean gap between prediction and observed share over the bins, weighted by their size.

    Of a finite sample it is biased upwards, by about sqrt(bins p (1 - p) / n).
    """
    found = reliability_bins(predicted, happened, bins, kind)
    return sum(b.n * abs(b.predicted - b.observed) for b in found) / sum(b.n for b in found)


def brier_score(predicted: ArrayLike, happened: ArrayLike) -> float:
    """Mean squared difference of probability and outcome (Brier 1950); 0 is perfect."""
    p, y = _checked(predicted, happened)
    return float(np.mean((p - y) ** 2))


def auroc(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """Chance that a positive scores above a negative, ties half; None where there is only one kind."""
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if y.all() or not y.any():
        return None
    ranked = np.sort(s[~y])
    wins = np.searchsorted(ranked, s[y], "left") + np.searchsorted(ranked, s[y], "right")
    return float(wins.sum() / (2 * y.sum() * (~y).sum()))


def risk_coverage(scores: ArrayLike, wrong: ArrayLike) -> RiskCoverage:
    """The curve of `scores` (n,), higher = surer, over `wrong` (n,) of 0/1. InputError without data."""
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(wrong, dtype=np.float64)
    if not s.size or s.shape != y.shape:
        raise InputError(f"{s.size} scores with {y.size} outcomes: a risk-coverage curve needs one of each per answer")
    values, inverse, counts = np.unique(-s, return_inverse=True, return_counts=True)
    errors = np.bincount(inverse, weights=y, minlength=values.size)
    n, total = np.cumsum(counts), np.cumsum(errors)
    # Within a tie errors come evenly, which is their mean over all orders.
    spread = np.repeat(errors / counts, counts)
    each = np.cumsum(spread) / np.arange(1, s.size + 1)
    return RiskCoverage(tuple((n / s.size).tolist()), tuple((total / n).tolist()), float(each.mean()))


def calibration_metrics(p_wrong: ArrayLike, wrong: ArrayLike) -> CalibrationMetrics:
    """All of them at once, for predicted P(wrong) (n,) against what was `wrong` (n,) of 0/1."""
    p, y = _checked(p_wrong, wrong)
    return CalibrationMetrics(
        n=p.size,
        ece_mass=expected_calibration_error(p, y),
        ece_width=expected_calibration_error(p, y, kind="width"),
        brier=brier_score(p, y),
        auroc=auroc(p, y.astype(bool)),
        aurc=risk_coverage(-p, y).aurc,
    )


def _checked(predicted: ArrayLike, happened: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, y = np.asarray(predicted, dtype=np.float64), np.asarray(happened, dtype=np.float64)
    if not p.size or p.shape != y.shape:
        raise InputError(f"{p.size} predictions with {y.size} outcomes: give one of each per answer, at least one")
    if not ((p >= 0) & (p <= 1)).all():
        seen: Sequence[float] = p[~((p >= 0) & (p <= 1))].tolist()
        raise InputError(f"a predicted probability is {seen[0]}: give values from 0 to 1")
    return p, y
