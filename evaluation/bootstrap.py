"""Bootstrap intervals of means, ratios and relative savings over paired rows.

Every interval is two-sided at `confidence`; each of its ends is therefore a one-sided bound at (1 + confidence) / 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri, stdtrit

from cascade.errors import InputError
from evaluation.intervals import FloatArray, Interval, as_rows, checked_confidence

_COUNTS_PER_CHUNK = 1_000_000  # counts drawn at once
_KEPT_COUNTS = 5_000_000  # counts (8 bytes each) of one draw that are worth keeping for the next figure
_LEAST_BEYOND = 10  # resamples beyond a bound, below which a quantile of resamples says little


def bootstrap_mean(
    values: ArrayLike,
    confidence: float = 0.95,
    *,
    resamples: int = 2000,
    seed: int = 0,
    method: str = "expanded",
) -> Interval:
    """Bootstrap interval of a mean; of a mean paired difference when given the differences."""
    rows = as_rows(values)
    return bootstrap_ratio(rows, np.ones_like(rows), confidence, resamples=resamples, seed=seed, method=method)


def bootstrap_ratio(
    numerator: ArrayLike,
    denominator: ArrayLike,
    confidence: float = 0.95,
    *,
    resamples: int = 2000,
    seed: int = 0,
    method: str = "expanded",
) -> Interval:
    """Bootstrap interval of sum(numerator) / sum(denominator) over paired rows, shape (n,) each.

    Rows are resampled together, which keeps their pairing. `method` is "percentile", "bca" (Efron
    1987: bias-corrected and accelerated, by the jackknife) or "expanded" (Hesterberg 2015, The
    American Statistician 69:371: percentile levels widened from normal to t). The t has the degrees
    of freedom of the rows that carry the variance: when two sides differ on a handful of rows, BCa
    finds a saving where there is none in 9-10 % of samples at a nominal 5 %, this in at most 5 %.
    InputError with fewer than two rows or a denominator that is not positive.
    """
    top, bottom = as_rows(numerator), as_rows(denominator)
    return bootstrap_ratios([(top, bottom)], confidence, resamples=resamples, seed=seed, method=method)[0]


def bootstrap_ratios(
    pairs: Sequence[tuple[FloatArray, FloatArray]],
    confidence: float = 0.95,
    *,
    resamples: int = 2000,
    seed: int = 0,
    method: str = "expanded",
) -> list[Interval]:
    """`bootstrap_ratio` of several (numerator, denominator) columns over the same rows at once.

    All columns are resampled together: one draw of rows serves every figure of a report, and costs one
    matrix product. Where fewer than ten resamples lie beyond a bound (a very small alpha), resampling cannot place
    it: the bound is then the estimate's linearised standard error times the t quantile of the same degrees of
    freedom ("linear-t").
    """
    for top, bottom in pairs:
        _check_ratio(top, bottom)
    tail = (1 - checked_confidence(confidence)) / 2
    if method not in ("expanded", "bca", "percentile"):
        raise InputError(f'bootstrap method "{method}" is unknown: use "expanded", "bca" or "percentile"')
    if method == "expanded" and tail * resamples < _LEAST_BEYOND:
        return [_linear_t(top, bottom, tail) for top, bottom in pairs]
    columns, places = _distinct_columns(pairs)
    sums = _resampled_sums(np.stack(columns, axis=1), resamples, seed)
    found = []
    for (top, bottom), (above, below) in zip(pairs, places, strict=True):
        found.append(_ratio_interval(top, bottom, sums[:, above], sums[:, below], tail, method))
    return found


def _ratio_interval(
    top: FloatArray, bottom: FloatArray, above: FloatArray, below: FloatArray, tail: float, method: str
) -> Interval:
    value = float(top.sum() / bottom.sum())
    # A resample without anything to divide by says nothing about the ratio: it keeps the estimate.
    drawn = np.where(below > 0, above / np.where(below > 0, below, 1.0), value)
    levels: tuple[float, float] = (tail, 1 - tail)
    if method == "bca":
        rest = bottom.sum() - bottom
        safe = np.where(rest > 0, rest, 1.0)
        jackknife = np.where(rest > 0, (top.sum() - top) / safe, value)
        levels = _bca_levels(value, drawn, jackknife, levels)
    elif method == "expanded":
        levels = _expanded_levels(top - value * bottom, levels)
    low, high = np.quantile(drawn, levels)
    # Rounding in the sums may put a resample of equal rows a bit past the value itself.
    return Interval(value, min(value, float(low)), max(value, float(high)), len(top), f"bootstrap-{method}")


def _linear_t(top: FloatArray, bottom: FloatArray, tail: float) -> Interval:
    value = float(top.sum() / bottom.sum())
    influence = top - value * bottom
    error = math.sqrt(len(top) * float(np.var(influence, ddof=1))) / float(bottom.sum())
    half = -float(stdtrit(_effective_freedom(influence), tail)) * error
    return Interval(value, value - half, value + half, len(top), "linear-t")


def bootstrap_relative_cut(
    before: ArrayLike,
    after: ArrayLike,
    confidence: float = 0.95,
    *,
    resamples: int = 2000,
    seed: int = 0,
    method: str = "expanded",
) -> Interval:
    """Paired bootstrap interval of 1 - sum(after) / sum(before): a relative saving (0.2 = a fifth less)."""
    return as_cut(bootstrap_ratio(after, before, confidence, resamples=resamples, seed=seed, method=method))


def as_cut(ratio: Interval) -> Interval:
    """The interval of 1 - ratio: of a relative saving, from that of after / before."""
    return replace(ratio, value=1 - ratio.value, low=1 - ratio.high, high=1 - ratio.low)


def _check_ratio(top: FloatArray, bottom: FloatArray) -> None:
    if len(top) != len(bottom):
        raise InputError(f"a ratio needs paired rows, got {len(top)} and {len(bottom)}: pair them first")
    if len(top) < 2 or bottom.min() < 0 or bottom.sum() <= 0:
        raise InputError(
            f"a bootstrap ratio needs two rows or more and a positive denominator, got {len(top)} rows "
            f"with denominator {float(bottom.sum()):g}: leave the ratio out where there is nothing to divide"
        )


def _distinct_columns(
    pairs: Sequence[tuple[FloatArray, FloatArray]],
) -> tuple[list[FloatArray], list[tuple[int, int]]]:
    """The arrays that occur in `pairs`, each once, and where each pair's two stand among them."""
    columns: list[FloatArray] = []
    known: dict[int, int] = {}
    for array in (array for pair in pairs for array in pair):
        if id(array) not in known:
            known[id(array)] = len(columns)
            columns.append(array)
    return columns, [(known[id(top)], known[id(bottom)]) for top, bottom in pairs]


def _resampled_sums(columns: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Sums of each column (n, k) over `resamples` draws of n rows with replacement: (resamples, k)."""
    n = len(columns)
    if n * resamples <= _KEPT_COUNTS:
        sums: FloatArray = _counts(n, resamples, seed) @ columns
        return sums
    rng = np.random.default_rng(seed)
    size = max(1, _COUNTS_PER_CHUNK // n)
    parts = [_draw_counts(rng, n, min(size, resamples - start)) @ columns for start in range(0, resamples, size)]
    return np.concatenate(parts)


@lru_cache(maxsize=2)
def _counts(n: int, resamples: int, seed: int) -> FloatArray:
    """How often each of n rows is in each resample. A report asks for the same draw many times."""
    rng = np.random.default_rng(seed)
    size = max(1, _COUNTS_PER_CHUNK // n)
    return np.concatenate([_draw_counts(rng, n, min(size, resamples - start)) for start in range(0, resamples, size)])


def _draw_counts(rng: np.random.Generator, n: int, size: int) -> FloatArray:
    rows = rng.integers(0, n, size=(size, n), dtype=np.int32)
    flat = rows + n * np.arange(size, dtype=np.int64)[:, None]
    return np.bincount(flat.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _effective_freedom(influence: FloatArray) -> float:
    """Degrees of freedom of the rows that carry the variance: D rows of equal influence among zeros count as D."""
    squares = (influence - influence.mean()) ** 2
    fourth = float(np.sum(squares**2))
    effective = float(np.sum(squares)) ** 2 / fourth if fourth > 1e-300 else float(len(influence))
    return max(1.0, effective - 1)


def _expanded_levels(influence: FloatArray, levels: tuple[float, float]) -> tuple[float, float]:
    low = float(ndtr(stdtrit(_effective_freedom(influence), levels[0])))
    return low, 1 - low


def _bca_levels(
    value: float, drawn: FloatArray, jackknife: FloatArray, levels: tuple[float, float]
) -> tuple[float, float]:
    tolerance = 1e-12 * max(1.0, abs(value))
    below = np.mean(drawn < value - tolerance) + 0.5 * np.mean(np.abs(drawn - value) <= tolerance)
    if below <= 0 or below >= 1:
        return levels
    bias = float(ndtri(below))
    spread = jackknife.mean() - jackknife
    scale = float(np.sum(spread**2)) ** 1.5
    acceleration = float(np.sum(spread**3)) / (6 * scale) if scale > 1e-300 else 0.0

    def corrected(level: float) -> float:
        z = bias + float(ndtri(level))
        shrink = 1 - acceleration * z
        return float(ndtr(bias + z / shrink)) if shrink > 1e-6 else level

    return corrected(levels[0]), corrected(levels[1])
