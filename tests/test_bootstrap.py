"""Bootstrap intervals: coverage, level, seeds, and many figures from one draw."""

import math

import numpy as np
import pytest

from cascade.errors import InputError
from evaluation.bootstrap import bootstrap_mean, bootstrap_ratio, bootstrap_ratios, bootstrap_relative_cut


def flips(rng, n, share_flipped):
    """Paired costs where the two sides escalate equally often and differ on a share of the rows."""
    small, large = 0.0005 * rng.lognormal(0, 0.2, n), rng.lognormal(-4, 0.5, n)
    before = rng.random(n) < 0.3
    after, flipped, first = before.copy(), rng.random(n) < share_flipped, rng.random(n) < 0.5
    before[flipped], after[flipped] = first[flipped], ~first[flipped]
    return small + before * large, small + after * large


@pytest.mark.parametrize("share_flipped", [0.01, 0.03, 0.2])
def test_expanded_bootstrap_finds_no_saving_where_there_is_none(share_flipped):
    rng = np.random.default_rng(11)
    found = 0
    for seed in range(800):
        before, after = flips(rng, 300, share_flipped)
        found += bootstrap_relative_cut(before, after, 0.9, resamples=300, seed=seed).low > 0
    assert found / 800 <= 0.05 + 0.015  # two standard errors


def test_coverage_of_bootstrap_intervals():
    rng = np.random.default_rng(7)
    covered = {"expanded": 0, "bca": 0, "percentile": 0}
    truth = 1 - (0.2 * 2 + 0.1) / (0.3 * 2 + 0.1)
    for seed in range(500):
        draw, cost = rng.random(250), rng.gamma(4, 0.5, 250)  # mean cost 2 of an escalation
        before = (draw < 0.3) * cost + 0.1
        after = (draw < 0.2) * cost + 0.1
        for method in covered:
            it = bootstrap_relative_cut(before, after, 0.9, resamples=300, seed=seed, method=method)
            covered[method] += it.low <= truth <= it.high
    assert all(0.86 <= hits / 500 <= 0.945 for hits in covered.values()), covered


def test_coverage_of_the_mean_bootstrap_on_graded_differences():
    rng = np.random.default_rng(9)
    hits = 0
    for seed in range(500):
        rows = np.where(rng.random(200) < 0.2, rng.uniform(-1, 0.6, 200), 0.0)
        it = bootstrap_mean(rows, 0.95, resamples=300, seed=seed)
        hits += it.low <= 0.2 * -0.2 <= it.high
    assert 0.92 <= hits / 500 <= 0.98


def test_bootstrap_is_seeded_and_keeps_equal_sides_at_zero():
    before = np.linspace(0.1, 2.0, 50)
    assert bootstrap_relative_cut(before, before * 0.8).value == pytest.approx(0.2)
    same = bootstrap_relative_cut(before, before)
    assert (same.low, same.value, same.high) == (0.0, 0.0, 0.0)
    noisy = before[::-1]
    assert bootstrap_ratio(noisy, before, seed=4) == bootstrap_ratio(noisy, before, seed=4)
    assert bootstrap_ratio(noisy, before, seed=4) != bootstrap_ratio(noisy, before, seed=5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: bootstrap_mean([1.0]),
        lambda: bootstrap_mean([1.0, math.nan]),
        lambda: bootstrap_ratio([1.0, 2.0], [0.0, 0.0]),
        lambda: bootstrap_ratio([1.0, 2.0], [1.0]),
        lambda: bootstrap_ratio([1.0, 2.0], [1.0, 1.0], method="guess"),
    ],
)
def test_bad_input_is_one_sentence(call):
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)


def test_many_figures_from_one_draw_are_those_of_single_calls():
    rng = np.random.default_rng(4)
    a, b, c = (rng.gamma(2, 1, 150) for _ in range(3))
    together = bootstrap_ratios([(a, b), (c, b), (a, c)], 0.9, resamples=400, seed=5)
    alone = [bootstrap_ratio(x, y, 0.9, resamples=400, seed=5) for x, y in ((a, b), (c, b), (a, c))]
    for one, other in zip(together, alone, strict=True):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), rel=1e-12)


def test_a_draw_too_large_to_keep_gives_the_same_numbers():
    rng = np.random.default_rng(6)
    a, b = rng.gamma(2, 1, 30_000), rng.gamma(2, 1, 30_000)
    found = bootstrap_ratio(a, b, 0.9, resamples=250, seed=1)
    error = np.std(a - found.value * b) / b.mean() / np.sqrt(30_000)
    assert found.high - found.low == pytest.approx(2 * 1.645 * error, rel=0.15)


def test_a_very_small_alpha_is_not_left_to_the_resamples():
    # 0.02 % in each tail of 400 resamples: none lies there.
    rng = np.random.default_rng(8)
    missed = 0
    for seed in range(3000):
        rows = rng.normal(0.1, 1, 60)
        found = bootstrap_mean(rows, 1 - 2 * 0.002, resamples=400, seed=seed)
        assert found.method == "linear-t"
        missed += found.low > 0.1
    assert missed <= 6 + 3 * math.sqrt(6)
