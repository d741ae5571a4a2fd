"""Intervals, tests and sample sizes for rates, paired rates and costs.

Every interval is two-sided at `confidence`; each of its ends is therefore a one-sided bound at
(1 + confidence) / 2: the ends of a 90 % interval are the bounds of a one-sided test at 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import betaincinv, ndtr, ndtri, stdtrit

from cascade.errors import InputError

FloatArray = NDArray[np.float64]
_COUNTS_PER_CHUNK = 1_000_000  # counts drawn at once
_KEPT_COUNTS = 5_000_000  # counts (8 bytes each) of one draw that are worth keeping for the next figure
_LEAST_BEYOND = 10  # resamples beyond a bound, below which a quantile of resamples says little


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


def tango_difference(
    n_better: int, n_worse: int, n: int, confidence: float = 0.95, *, correction: float = 0.0
) -> Interval:
    """Score interval of a difference of two paired rates (Tango 1998, Statistics in Medicine 17:891).

    `n_better` pairs are right only on the new side, `n_worse` only on the old side, of n pairs;
    the difference is (n_better - n_worse) / n. Holds its level with few or no discordant pairs,
    where the Wald interval collapses. A `correction` of half a pair (continuity) widens it a little: the level is
    then kept from below, where the plain interval keeps it on average.
    """
    _check_pairs(n_better, n_worse, n)
    z = _z_two_sided(confidence)
    value = (n_better - n_worse) / n

    def bound(sign: float) -> float:
        edge = -sign * (1 - 1e-12)

        def excess(delta: float) -> float:
            return tango_statistic(n_better, n_worse, n, delta, correction) - sign * z

        # The statistic falls with delta from +inf to -inf, so there is one crossing on each side.
        if excess(edge) * excess(value) >= 0:
            return value if abs(value) == 1 else edge
        return float(brentq(excess, min(edge, value), max(edge, value), xtol=1e-12))

    return Interval(value, max(-1.0, bound(1.0)), min(1.0, bound(-1.0)), n, "tango")


def tango_statistic(n_better: int, n_worse: int, n: int, delta: float, correction: float = 0.0) -> float:
    """Score statistic of H0 "the paired difference is delta" (Tango 1998, equation 7); N(0, 1) under H0."""
    b, c = n_better, n_worse
    linear = -b - c + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    # The constrained maximum-likelihood estimate of P(right only on the old side).
    p_worse = (math.sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * p_worse + delta * (1 - delta))
    gap = b - c - n * delta
    gap = math.copysign(max(0.0, abs(gap) - correction), gap)
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
    tail = (1 - _checked_confidence(confidence)) / 2
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


def weighted_rate(hits: ArrayLike, weights: ArrayLike, confidence: float = 0.95) -> Interval:
    """Rate of `hits` (0 or 1, shape (n,)) among rows drawn with unequal probabilities; `weights` are 1 / propensity.

    The estimate is the weighted mean (Hajek 1971); the interval is exact-binomial at the effective sample size
    (Korn and Graubard 1998, Survey Methodology 24:193), with Kish's n_eff = (sum w)^2 / sum w^2 as its upper
    limit. With equal weights it is Clopper-Pearson's. n is the number of rows. InputError without rows or
    with weights that are not positive.
    """
    found, weight = _as_rows(hits), _as_rows(weights)
    if len(found) != len(weight) or not len(found) or weight.min() <= 0:
        raise InputError(
            f"a weighted rate needs rows and positive weights, got {len(found)} and {len(weight)}: "
            "leave rows that could not have been drawn out"
        )
    rate = float(np.sum(weight * found) / np.sum(weight))
    effective = float(np.sum(weight) ** 2 / np.sum(weight**2))
    if 0 < rate < 1:
        spread = float(np.sum((weight * (found - rate)) ** 2)) / float(np.sum(weight)) ** 2
        effective = min(effective, rate * (1 - rate) / spread)
    tail = (1 - _checked_confidence(confidence)) / 2
    events = rate * effective
    low = 0.0 if events <= 0 else float(betaincinv(events, effective - events + 1, tail))
    high = 1.0 if rate >= 1 else float(betaincinv(events + 1, effective - events, 1 - tail))
    return Interval(rate, min(rate, low), max(rate, high), len(found), "korn-graubard")


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
