"""The simulation puts in the effect that it says, and asks the real gate."""

import numpy as np
import pytest

from cascade.errors import InputError
from evaluation.table import PairedTable, SideTable
from promotion.policy import GatePolicy
from promotion.simulate import Effect, exchanged, rows_for_power, simulate, with_effect


def population(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    large = 0.004 * rng.lognormal(0, 0.4, n)
    accepted = rng.random(n) > 0.4
    candidate = accepted ^ (rng.random(n) < 0.05)

    def side(yes, wrong):
        served = np.where(yes & (rng.random(n) < wrong), 0.0, 1.0)
        return SideTable(yes, served, served, 0.0002 + ~yes * large)

    return PairedTable(side(accepted, 0.03), side(candidate, 0.05), large, rng.integers(0, 5, n))


def last(steps):
    return list(steps)[-1]


@pytest.mark.parametrize("effect", [Effect(0.2, 0.0), Effect(-0.1, -0.02), Effect(0.35, 0.01)])
def test_the_effect_holds_over_the_population(effect):
    table, rng = population(), np.random.default_rng(1)
    draw = with_effect(table, effect)
    sample = draw(rng, rng.integers(0, table.n, 400_000))
    cut = 1 - sample.candidate.cost.mean() / sample.champion.cost.mean()
    quality = (sample.candidate.served - sample.champion.served).mean()
    assert cut == pytest.approx(effect.cost_cut, abs=0.006)
    assert quality == pytest.approx(effect.quality, abs=0.0015)
    same = sample.champion.cost + np.where(sample.champion.accepted, sample.flagship_cost, 0)
    mine = sample.candidate.cost + np.where(sample.candidate.accepted, sample.flagship_cost, 0)
    assert np.allclose(same, mine)  # a row's cost is still small + large where it escalates


def test_exchanged_sides_are_equal_in_expectation_and_keep_every_row():
    table, rng = population(), np.random.default_rng(2)
    gaps = []
    for _ in range(200):
        mixed = exchanged(table, rng)
        gaps.append((mixed.candidate.cost - mixed.champion.cost).mean())
        assert np.array_equal(mixed.candidate.cost + mixed.champion.cost, table.candidate.cost + table.champion.cost)
    assert abs(np.mean(gaps)) < 3 * np.std(gaps) / np.sqrt(200)


def test_a_real_saving_is_promoted_and_none_is_not():
    table, policy = population(), GatePolicy()
    good = last(simulate(table, policy, Effect(0.25, 0.0), n=1200, repetitions=40, resamples=500))
    none = last(simulate(table, policy, Effect(0.0, 0.0), n=1200, repetitions=40, resamples=500))
    assert good.promoted.value >= 0.8
    assert none.promoted.value <= 0.15
    assert none.open_checks["cost lower"] >= 0.85
    assert good.promoted.value + good.rejected + good.inconclusive == pytest.approx(1)
    again = last(simulate(table, policy, Effect(0.25, 0.0), n=1200, repetitions=40, resamples=500))
    assert again == good


def test_rows_for_power_brackets_the_answer():
    tried = list(rows_for_power(population(), GatePolicy(min_pairs=100), Effect(0.25), repetitions=40, resamples=300))
    shares = dict(tried)
    enough = min(n for n, share in tried if share >= 0.8)
    assert any(share < 0.8 and n < enough for n, share in shares.items())
    assert 150 <= enough <= 1600


def test_more_rows_than_allowed_end_the_search():
    tried = list(rows_for_power(population(), GatePolicy(), Effect(0.0), repetitions=5, resamples=300, most=600))
    assert [n for n, _ in tried] == [300, 600]


@pytest.mark.parametrize("effect", [Effect(cost_cut=0.99), Effect(quality=0.2), Effect(cost_cut=-5)])
def test_an_effect_out_of_reach_is_one_sentence(effect):
    with pytest.raises(InputError, match="cannot be simulated") as error:
        with_effect(population(), effect)
    assert "\n" not in str(error.value)


def test_unknown_costs_are_refused():
    table = population()
    table.flagship_cost[3] = np.nan
    with pytest.raises(InputError, match="needs the cost of every row"):
        with_effect(table, Effect())
