"""The online comparison may be looked at after every query: its errors stay within alpha all the same."""

import numpy as np
import pytest

from cascade.errors import InputError
from promotion.online import Arm, Bet, CanaryWatch, Standing, Watch, arm_of


def watch_until_told(rng, champion, candidate, n, share=0.2, **settings):
    watch = Watch(**{"alpha": 0.05, "margin": 0.1, **settings})
    is_candidate, luck = rng.random(n) < share, rng.random(n)
    for mine, u in zip(is_candidate, luck, strict=True):
        watch.observe(Arm.CANDIDATE if mine else Arm.CHAMPION, float(u < (candidate if mine else champion)))
        if watch.standing is not Standing.OPEN:
            break
    return watch.standing


def share_of(standing, repetitions, **truth):
    rng = np.random.default_rng(5)
    return np.mean([watch_until_told(rng, **truth) is standing for _ in range(repetitions)])


def test_an_equal_candidate_is_taken_back_in_at_most_five_percent():
    # Looked at after every one of 2,000 queries. A fixed-n test at 5 % would be wrong in a third of these.
    assert share_of(Standing.WORSE, 250, champion=0.7, candidate=0.7, n=2000, margin=0.9) <= 0.05 + 0.02


def test_a_candidate_worse_by_the_margin_is_cleared_in_at_most_five_percent():
    assert share_of(Standing.NOT_WORSE, 150, champion=0.7, candidate=0.6, n=2000) <= 0.05


def test_a_bad_candidate_is_taken_back_soon():
    assert share_of(Standing.WORSE, 40, champion=0.7, candidate=0.4, n=1200) >= 0.95


def test_a_good_candidate_is_cleared():
    assert share_of(Standing.NOT_WORSE, 40, champion=0.6, candidate=0.75, n=2000) >= 0.95


def test_a_bet_never_goes_broke_and_its_capital_is_fair():
    rng = np.random.default_rng(1)
    final = []
    for _ in range(4000):
        bet = Bet(0.4)
        for value in rng.choice([0.0, 1.0], size=3, p=[0.6, 0.4]):
            bet.observe(value)
        final.append(np.mean(np.exp(bet.log_capital)))
    assert np.mean(final) == pytest.approx(1.0, abs=0.05)
    worst = Bet(0.4)
    for _ in range(500):
        worst.observe(1.0)
    assert np.isfinite(worst.log_capital).all()
    assert worst.peak == 0.0


def test_any_outcome_that_is_worse_decides():
    watch = CanaryWatch(("answered_cheaply", "audited_right"), alpha=0.05, margin=0.1)
    for i in range(400):
        arm = Arm.CANDIDATE if i % 4 == 0 else Arm.CHAMPION
        watch.observe(arm, answered_cheaply=1.0)
        if i % 2 == 0:
            watch.observe(arm, audited_right=0.0 if arm is Arm.CANDIDATE else 1.0)
    assert watch.standing is Standing.WORSE
    assert watch.watches["answered_cheaply"].standing is not Standing.WORSE
    assert "audited right -100.0 points" in watch.sentence()


def test_arms_are_drawn_by_the_query_alone():
    arms = [arm_of(f"q{i}", 0.1, seed=3) for i in range(5000)]
    assert arms == [arm_of(f"q{i}", 0.1, seed=3) for i in range(5000)]
    assert 0.085 <= np.mean([arm is Arm.CANDIDATE for arm in arms]) <= 0.115
    assert {arm_of(f"q{i}", 0.0) for i in range(200)} == {Arm.CHAMPION}


def test_outcomes_outside_their_range_are_refused():
    with pytest.raises(InputError, match="not in"):
        Watch(0.05, 0.1).observe(Arm.CANDIDATE, 1.5)
    with pytest.raises(InputError, match="inside"):
        Bet(1.0)
