"""Intervals, tests and sample sizes for rates and paired rates; those of means and costs are in bootstrap.py.

Every interval is two-sided at `confidence`; each of its ends is therefore a one-sided bound at
(1 + confidence) / 2: the ends of a 90 % interval are the bounds of a one-sided test at 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import betaincinv, ndtr, ndtri

from cascade.errors import InputError

FloatArray = NDArray[np.float64]


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
    tail = (1 - checked_confidence(confidence)) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return Interval(successes / n, low, high, n, "clopper-pearson")


def newcombe_difference(hits: int, n: int, base_hits: int, base_n: int, confidence: float = 0.95) -> Interval:
    """Interval of the difference of two independent rates, hits / n - base_hits / base_n.

    Newcombe 1998 (Statistics in Medicine 17:873), method 10: the two rates' Wilson intervals, added by squares. Its n
    is that of the first rate. InputError as `wilson`.
    """
    new, base = wilson(hits, n, confidence), wilson(base_hits, base_n, confidence)
    value = new.value - base.value
    low = value - math.hypot(new.value - new.low, base.high - base.value)
    high = value + math.hypot(new.high - new.value, base.value - base.low)
    return Interval(value, max(-1.0, low), min(1.0, high), n, "newcombe")


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


def weighted_rate(hits: ArrayLike, weights: ArrayLike, confidence: float = 0.95) -> Interval:
    """Rate of `hits` (0 or 1, shape (n,)) among rows drawn with unequal probabilities; `weights` are 1 / propensity.

    The estimate is the weighted mean (Hajek 1971); the interval is exact-binomial at the effective sample size
    (Korn and Graubard 1998, Survey Methodology 24:193), with Kish's n_eff = (sum w)^2 / sum w^2 as its upper
    limit. With equal weights it is Clopper-Pearson's. n is the number of rows. InputError without rows or
    with weights that are not positive.
    """
    found, weight = as_rows(hits), as_rows(weights)
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
    tail = (1 - checked_confidence(confidence)) / 2
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


def as_rows(values: Any) -> FloatArray:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 1 or not np.all(np.isfinite(rows)):
        raise InputError(
            f"a bootstrap needs one row of finite numbers, got shape {rows.shape}: leave unknown values out"
        )
    return rows


def checked_confidence(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence:g}: use a value between 0 and 1, such as 0.95")
    return confidence


def _z_two_sided(confidence: float) -> float:
    return float(ndtri((1 + checked_confidence(confidence)) / 2))


def _check_counts(successes: int, n: int) -> None:
    if n <= 0 or not 0 <= successes <= n:
        raise InputError(f"a rate of {successes} in {n} does not exist: counts must satisfy 0 <= k <= n, n > 0")


def _check_pairs(n_better: int, n_worse: int, n: int) -> None:
    if min(n_better, n_worse) < 0 or n <= 0 or n_better + n_worse > n:
        raise InputError(f"{n_better} better and {n_worse} worse of {n} pairs do not add up: count them again")
