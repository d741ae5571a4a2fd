"""What the flagship would add, told from the query alone."""

import numpy as np
import pytest
from loopback import make_query

from evaluation.routers import QueryTable

N = 400
RNG = np.random.default_rng(3)
HARD = RNG.random(N) < 0.4
QUERIES = tuple(make_query(i, f"item {i}: " + "add 17 and 25 then " * (6 if HARD[i] else 1)) for i in range(N))
FIT, TEST = np.arange(300), np.arange(300, N)
GAIN = np.where(HARD, RNG.random(N) < 0.8, RNG.random(N) < 0.1)


def table(choose=None):
    return QueryTable.build(QUERIES, FIT, TEST, choose, embed=None, seed=1)


def test_it_tells_where_the_flagship_gains_on_queries_it_has_not_seen() -> None:
    told = table().chance(GAIN)
    assert told.test[HARD[300:]].mean() == pytest.approx(0.8, abs=0.12)
    assert told.test[~HARD[300:]].mean() == pytest.approx(0.1, abs=0.12)
    assert told.choose.shape == (300,)


def test_the_rows_that_choose_are_told_by_models_that_have_not_seen_them() -> None:
    noise = np.random.default_rng(0).random(N) < 0.5
    told = table().chance(noise).choose
    right, wrong = told[noise[:300]], told[~noise[:300]]
    assert (right[:, None] > wrong[None, :]).mean() < 0.6


def test_rows_of_their_own_may_choose() -> None:
    choose = np.arange(250, 300)
    apart = QueryTable.build(QUERIES, np.arange(250), TEST, choose, embed=None, seed=1)
    assert apart.chance(GAIN).choose.shape == apart.usd(np.ones(N)).choose.shape == (50,)


def test_too_few_events_are_told_by_their_share() -> None:
    rare = np.zeros(N, dtype=bool)
    rare[:6] = True
    told = table().chance(rare)
    assert set(told.test.tolist()) == set(told.choose.tolist()) == {6 / 300}


def test_the_cost_follows_the_querys_length() -> None:
    usd = np.where(HARD, 6e-3, 1e-3)
    told = table().usd(usd)
    for predicted, hard in ((told.choose, HARD[:300]), (told.test, HARD[300:])):
        assert predicted[hard] == pytest.approx(6e-3, rel=0.05)
        assert predicted[~hard] == pytest.approx(1e-3, rel=0.05)
