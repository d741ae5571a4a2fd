"""Intervals cover as often as they say, and agree with independent solutions."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binomtest, norm

from cascade.errors import InputError
from evaluation.intervals import (
    clopper_pearson,
    holm,
    pairs_needed,
    smallest_n,
    tango_difference,
    tango_p_less,
    wilson,
)


@pytest.mark.parametrize(("k", "n"), [(0, 20), (1, 100), (16, 500), (77, 90), (30, 30)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_single_rate_intervals_equal_scipy(k, n, confidence):
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        theirs = binomtest(k, n).proportion_ci(confidence, method=method)
        mine = ours(k, n, confidence)
        assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=1e-10)
        assert (mine.value, mine.n) == (k / n, n)


@pytest.mark.parametrize("rate", [0.03, 0.2, 0.5])
def test_coverage_of_single_rate_intervals(rate):
    draws = np.random.default_rng(3).binomial(200, rate, size=4000)
    exact = cache(lambda k: clopper_pearson(int(k), 200))
    score = cache(lambda k: wilson(int(k), 200))
    covered_exact = np.mean([exact(k).low <= rate <= exact(k).high for k in draws])
    covered_score = np.mean([score(k).low <= rate <= score(k).high for k in draws])
    assert covered_exact >= 0.95 - 0.007  # two standard errors of 4,000 draws
    assert 0.93 <= covered_score <= 0.975


def independent_tango(b, c, n, confidence):
    """Tango's interval from the trinomial likelihood alone, maximised numerically at each delta."""
    z = norm.ppf((1 + confidence) / 2)

    def statistic(delta):
        def loss(q):
            cells = ((b, q + delta), (c, q), (n - b - c, 1 - 2 * q - delta))
            return -sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)

        bounds = (max(0.0, -delta), (1 - delta) / 2)
        q = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        return (b - c - n * delta) / math.sqrt(n * (2 * q + delta - delta**2))

    value = (b - c) / n
    low = brentq(lambda d: statistic(d) - z, -0.999, value - 1e-9)
    high = brentq(lambda d: statistic(d) + z, value + 1e-9, 0.999)
    return low, high


@pytest.mark.parametrize(
    ("b", "c", "n"), [(10, 4, 100), (0, 5, 30), (5, 0, 30), (0, 0, 100), (31, 42, 800), (120, 90, 400)]
)
def test_tango_equals_a_numerical_solution_of_the_score_equation(b, c, n):
    mine = tango_difference(b, c, n, 0.95)
    assert (mine.low, mine.high) == pytest.approx(independent_tango(b, c, n, 0.95), abs=2e-5)


@pytest.mark.parametrize(
    ("p_better", "p_worse", "n"), [(0.05, 0.05, 300), (0.02, 0.04, 300), (0.01, 0.0, 100), (0.3, 0.1, 60)]
)
def test_coverage_of_tango(p_better, p_worse, n):
    cells = [p_better, p_worse, 1 - p_better - p_worse]
    draws = np.random.default_rng(5).multinomial(n, cells, size=3000)
    interval = cache(lambda b, c: tango_difference(b, c, n, 0.95))
    truth = p_better - p_worse
    covered = [interval(int(b), int(c)).low <= truth <= interval(int(b), int(c)).high for b, c, _ in draws]
    assert 0.93 <= np.mean(covered) <= 0.998  # with few discordant pairs no interval can be tight


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 400), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_tango_is_ordered_symmetric_and_agrees_with_its_test(b, c, both, confidence):
    n = b + c + both
    if n == 0:
        return
    there, back = tango_difference(b, c, n, confidence), tango_difference(c, b, n, confidence)
    assert -1 <= there.low <= there.value <= there.high <= 1
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-6)
    if there.high < 0.999:
        assert tango_p_less(b, c, n, there.high) == pytest.approx((1 - confidence) / 2, abs=1e-4)


def test_holm_equals_the_worked_example():
    # p = 0.01, 0.04, 0.03, 0.005: x4 and x3 for the two smallest, then 0.03 x 2, then the running maximum.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@pytest.mark.parametrize(("disagreement", "pairs"), [(0.05, 773), (0.10, 1546), (0.20, 3092)])
def test_sample_sizes_at_two_percent_margin(disagreement, pairs):
    assert pairs_needed(disagreement, 0.02) == pairs


def test_sample_size_has_the_power_that_it_promises():
    n = pairs_needed(0.1, 0.02)
    draws = np.random.default_rng(2).multinomial(n, [0.05, 0.05, 0.9], size=1500)
    low = cache(lambda b, c: tango_difference(b, c, n, 0.9).low)
    power = np.mean([low(int(b), int(c)) > -0.02 for b, c, _ in draws])
    assert power == pytest.approx(0.8, abs=0.035)


def test_smallest_n_is_smallest():
    assert smallest_n(lambda n: n >= 137, 1) == 137
    assert smallest_n(lambda n: n >= 137, 500) == 500
    assert smallest_n(lambda n: False, 1, limit=1000) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(3, 2),
        lambda: clopper_pearson(0, 0),
        lambda: tango_difference(3, 3, 5),
        lambda: wilson(1, 2, 1.5),
        lambda: pairs_needed(0.1, 0.02, difference=-0.02),
    ],
)
def test_bad_input_is_one_sentence(call):
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
