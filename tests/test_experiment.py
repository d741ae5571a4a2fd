from __future__ import annotations

import numpy as np
import pytest

from cascade.errors import InputError
from evaluation.bootstrap import bootstrap_relative_cut
from evaluation.experiment import SeedOutcome, difference, gain, measure, saving, times_as_much


def world(rng, cuts, n=300, spread=0.0):
    """One seed: the champion escalates half; each arm saves each escalation with its chance, moved by the seed."""
    before = (rng.random(n) < 0.5).astype(float)
    luck = spread * rng.normal()
    return {arm: SeedOutcome(before, before * (rng.random(n) >= cut + luck)) for arm, cut in cuts.items()}


def seeds(rng, cuts, n_seeds, **more):
    found = [world(rng, cuts, **more) for _ in range(n_seeds)]
    return {arm: [one[arm] for one in found] for arm in cuts}


def test_one_seed_agrees_with_the_bootstrap_of_one_report():
    arms = seeds(np.random.default_rng(0), {"ours": 0.3}, 1, n=2000)
    found, outcome = saving(measure(arms, shared_queries=False), "ours"), arms["ours"][0]
    plain = bootstrap_relative_cut(outcome.before, outcome.after, 0.9, method="percentile")
    assert found.value == pytest.approx(plain.value)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.005)


@pytest.mark.parametrize("spread", [0.0, 0.06])
def test_the_interval_covers_what_queries_and_seeds_vary(spread):
    rng, cuts, hits = np.random.default_rng(1), {"ours": 0.4, "other": 0.2}, 0
    for trial in range(200):
        found = measure(seeds(rng, cuts, 5, n=200, spread=spread), shared_queries=False, resamples=400, seed=trial)
        one, whole = difference(found, "ours", "other"), saving(found, "ours")
        hits += (one.low <= 0.2 <= one.high) + (whole.low <= 0.4 <= whole.high)
    assert 0.84 <= hits / 400 <= 0.96


def test_shared_queries_are_not_taken_for_more_than_they_are():
    """Five seeds that all do the same know no more than one."""
    arms = seeds(np.random.default_rng(5), {"ours": 0.3}, 1, n=400)
    one = saving(measure(arms, shared_queries=True), "ours")
    five = saving(measure({"ours": arms["ours"] * 5}, shared_queries=True), "ours")
    assert 0.9 < (five.high - five.low) / (one.high - one.low) < 1.8  # widened, as five seeds may vary more than seen
    apart = saving(measure({"ours": arms["ours"] * 5}, shared_queries=False), "ours")
    assert apart.high - apart.low < 1e-9  # what it must not be used for


@pytest.mark.parametrize("n_seeds", [2, 3])
def test_two_or_three_seeds_know_little(n_seeds):
    rng, hits = np.random.default_rng(6), 0
    for _ in range(300):
        found = saving(measure(seeds(rng, {"ours": 0.4}, n_seeds, n=200, spread=0.06), shared_queries=False), "ours")
        hits += found.low <= 0.4 <= found.high
    assert 0.85 <= hits / 300 <= 0.95


def test_pairing_narrows_the_difference():
    """What a seed's luck does to both arms cancels."""
    found = measure(
        seeds(np.random.default_rng(2), {"ours": 0.4, "other": 0.2}, 5, n=1000, spread=0.1), shared_queries=False
    )
    one, whole = difference(found, "ours", "other"), saving(found, "ours")
    assert one.high - one.low < 0.7 * (whole.high - whole.low)


def test_a_ratio_needs_a_saving_to_divide_by():
    rng = np.random.default_rng(3)
    found = measure(seeds(rng, {"ours": 0.4, "other": 0.1, "nothing": 0.0}, 5, n=2000), shared_queries=False)
    ratio = times_as_much(found, "ours", "other")
    assert ratio is not None
    assert ratio.low < 4 < ratio.high < 6
    assert times_as_much(found, "ours", "nothing") is None


def test_gain_is_the_mean_difference():
    outcome = SeedOutcome(np.array([1.0, 0.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 0.0]))
    more = SeedOutcome(np.zeros(4), np.ones(4))
    found = gain(measure({"ours": [outcome, more]}, shared_queries=False), "ours")
    assert found.value == pytest.approx(0.5)
    assert found.low <= 0.5 <= found.high


def test_arms_need_the_same_queries_and_a_cost_to_save():
    short, long = SeedOutcome(np.ones(3), np.ones(3)), SeedOutcome(np.ones(4), np.ones(4))
    with pytest.raises(InputError, match="same seeds"):
        measure({"a": [short], "b": [long]}, shared_queries=False)
    with pytest.raises(InputError, match="nothing to save"):
        saving(measure({"a": [SeedOutcome(np.zeros(3), np.zeros(3))]}, shared_queries=False), "a")
    with pytest.raises(InputError, match="do not share"):
        measure({"a": [short, long]}, shared_queries=True)
