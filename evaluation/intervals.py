"""Intervals, tests and sample sizes for rates, paired rates and costs.

Every interval is two-sided at `confidence`; each of its ends is therefore a one-sided bound at
(1 + confidence) / 2: the ends of a 90 % interval are the bounds of a one-sided test at 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import betaincinv, ndtr, ndtri, stdtrit

from cascade.errors import InputError

FloatArray = NDArray[np.float64]
_GATHERED_PER_CHUNK = 2_000_000  # resampled values held in memory at once


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval; n is the number of rows that it rests on."""

    value: float
    low: float
    high: float
    n: int
    method: str


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of one rate (Wilson 1927). InputError unless 0 <= successes <= n and n > 0."""
    _check_counts(successes, n)
    z = _z_two_sided(confidence)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(rate, low, high, n, "wilson")


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Exact interval of one rate (Clopper and Pearson 1934): covers at least `confidence`, at any n."""
    _check_counts(successes, n)
    tail = (1 - _checked_confidence(confidence)) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return Interval(successes / n, low, high, n, "clopper-pearson")


def tango_difference(n_better: int, n_worse: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a difference of two paired rates (Tango 1998, Statistics in Medicine 17:891).

    `n_better` pairs are right only on the new side, `n_worse` only on the old side, of n pairs;
    the difference is (n_better - n_worse) / n. Holds its level with few or no discordant pairs,
    where the Wald interval collapses.
    """
    _check_pairs(n_better, n_worse, n)
    z = _z_two_sided(confidence)
    value = (n_better - n_worse) / n

    def bound(sign: float) -> float:
        edge = -sign * (1 - 1e-12)

        def excess(delta: float) -> float:
            return tango_statistic(n_better, n_worse, n, delta) - sign * z

        # The statistic falls with delta from +inf to -inf, so there is one crossing on each side.
        if excess(edge) * excess(value) >= 0:
            return value if abs(value) == 1 else edge
        return float(brentq(excess, min(edge, value), max(edge, value), xtol=1e-12))

    return Interval(value, max(-1.0, bound(1.0)), min(1.0, bound(-1.0)), n, "tango")


def tango_statistic(n_better: int, n_worse: int, n: int, delta: float) -> float:
    """Score statistic of H0 "the paired difference is delta" (Tango 1998, equation 7); N(0, 1) under H0."""
    b, c = n_better, n_worse
    linear = -b - c + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    # The constrained maximum-likelihood estimate of P(right only on the old side).
    p_worse = (math.sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * p_worse + delta * (1 - delta))
    gap = b - c - n * delta
    if variance <= 0:
        return 0.0 if gap == 0 else math.copysign(math.inf, gap)
    return gap / math.sqrt(variance)


def tango_p_less(n_better: int, n_worse: int, n: int, delta: float = 0.0) -> float:
    """One-sided p-value against H0 "the paired difference is at least delta" (small: it is lower)."""
    _check_pairs(n_better, n_worse, n)
    return float(ndtr(tango_statistic(n_better, n_worse, n, delta)))


def bootstrap_mean(
    values: ArrayLike,
    confidence: float = 0.95,
    *,
    resamples: int = 2000,
    seed: int = 0,
    method: str = "expanded",
) -> Interval:
    """Bootstrap interval of a mean; of a mean paired difference when given the differences."""
    rows = _as_rows(values)
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
    top, bottom = _as_rows(numerator), _as_rows(denominator)
    if len(top) != len(bottom):
        raise InputError(f"a ratio needs paired rows, got {len(top)} and {len(bottom)}: pair them first")
    if len(top) < 2 or bottom.min() < 0 or bottom.sum() <= 0:
        raise InputError(
            f"a bootstrap ratio needs two rows or more and a positive denominator, got {len(top)} rows "
            f"with denominator {float(bottom.sum()):g}: leave the ratio out where there is nothing to divide"
        )
    value = float(top.sum() / bottom.sum())
    drawn = _resampled_ratios(top, bottom, resamples, seed)
    tail = (1 - _checked_confidence(confidence)) / 2
    levels: tuple[float, float] = (tail, 1 - tail)
    if method == "bca":
        rest = bottom.sum() - bottom
        safe = np.where(rest > 0, rest, 1.0)
        jackknife = np.where(rest > 0, (top.sum() - top) / safe, value)
        levels = _bca_levels(value, drawn, jackknife, levels)
    elif method == "expanded":
        levels = _expanded_levels(top - value * bottom, levels)
    elif method != "percentile":
        raise InputError(f'bootstrap method "{method}" is unknown: use "expanded", "bca" or "percentile"')
    low, high = np.quantile(drawn, levels)
    # Rounding in the sums may put a resample of equal rows a bit past the value itself.
    return Interval(value, min(value, float(low)), max(value, float(high)), len(top), f"bootstrap-{method}")


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
    ratio = bootstrap_ratio(after, before, confidence, resamples=resamples, seed=seed, method=method)
    return replace(ratio, value=1 - ratio.value, low=1 - ratio.high, high=1 - ratio.low)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjusted p-values, in the order given; compare each with alpha."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def pairs_needed(
    disagreement: float,
    margin: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    difference: float = 0.0,
) -> int:
    """Pairs for a paired non-inferiority test of two rates (one-sided alpha) to reach `power`.

    `disagreement` is the share of discordant pairs, `difference` the true new - old difference
    (0: equally good). n = (z_alpha + z_power)^2 (disagreement - difference^2) / (margin + difference)^2,
    the normal approximation (Nam 1997, Biometrics 53:1422; Lachenbruch 1992).
    """
    if not 0 < disagreement <= 1 or margin + difference <= 0:
        raise InputError(
            f"no sample size for disagreement {disagreement:g}, margin {margin:g}, difference "
            f"{difference:g}: disagreement must be in (0, 1] and the difference above -margin"
        )
    spread = max(disagreement - difference**2, 1e-9)
    z = float(ndtri(1 - alpha) + ndtri(power))
    return math.ceil(z * z * spread / (margin + difference) ** 2)


def smallest_n(holds: Callable[[int], bool], start: int, limit: int = 10_000_000) -> int | None:
    """Smallest n >= start (by bisection; `holds` must be monotone) that holds, None above `limit`."""
    high = max(1, start)
    while not holds(high):
        if high > limit:
            return None
        high *= 2
    low = max(start, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high


def _resampled_ratios(top: FloatArray, bottom: FloatArray, resamples: int, seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    n = len(top)
    size = max(1, _GATHERED_PER_CHUNK // n)
    out = np.empty(resamples)
    for start in range(0, resamples, size):
        rows = rng.integers(0, n, size=(min(size, resamples - start), n), dtype=np.int32)
        below = bottom[rows].sum(axis=1)
        # A resample without anything to divide by says nothing about the ratio: it keeps the estimate.
        safe = np.where(below > 0, below, 1.0)
        ratios = np.where(below > 0, top[rows].sum(axis=1) / safe, top.sum() / bottom.sum())
        out[start : start + len(rows)] = ratios
    return out


def _expanded_levels(influence: FloatArray, levels: tuple[float, float]) -> tuple[float, float]:
    squares = (influence - influence.mean()) ** 2
    fourth = float(np.sum(squares**2))
    # Participation ratio: D rows of equal influence among any number of zeros count as D.
    effective = float(np.sum(squares)) ** 2 / fourth if fourth > 1e-300 else float(len(influence))
    low = float(ndtr(stdtrit(max(1.0, effective - 1), levels[0])))
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


def _as_rows(values: Any) -> FloatArray:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 1 or not np.all(np.isfinite(rows)):
        raise InputError(
            f"a bootstrap needs one row of finite numbers, got shape {rows.shape}: leave unknown values out"
        )
    return rows


def _checked_confidence(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence:g}: use a value between 0 and 1, such as 0.95")
    return confidence


def _z_two_sided(confidence: float) -> float:
    return float(ndtri((1 + _checked_confidence(confidence)) / 2))


def _check_counts(successes: int, n: int) -> None:
    if n <= 0 or not 0 <= successes <= n:
        raise InputError(f"a rate of {successes} in {n} does not exist: counts must satisfy 0 <= k <= n, n > 0")


def _check_pairs(n_better: int, n_worse: int, n: int) -> None:
    if min(n_better, n_worse) < 0 or n <= 0 or n_better + n_worse > n:
        raise InputError(f"{n_better} better and {n_worse} worse of {n} pairs do not add up: count them again")
