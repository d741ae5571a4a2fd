"""Quiet weeks are quiet, and a rise is seen, on traffic drawn from given outcomes."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from benchmarks.false_alarms import START, Outcome, World, first_alarm
from lab.skills import OUT_OF_SCOPE
from monitoring.policy import MonitorPolicy
from monitoring.rates import check_cost, check_escalation, check_quality
from monitoring.records import Status
from monitoring.tally import by_week

POLICY = MonitorPolicy()


def outcomes():
    """A fifth escalates, 3 % of what is accepted is wrong."""
    rng = np.random.default_rng(0)

    def skill(rate, n=400):
        rows = zip(rng.random(n) < rate, rng.random(n) < 0.03, rng.lognormal(-6, 0.3, n), strict=True)
        return [Outcome(bool(e), bool(w), 2e-5 + (usd if e else 0.0), usd) for e, w, usd in rows]

    return {OUT_OF_SCOPE: skill(1.0), "known": skill(0.1), "harder": skill(0.2)}


@pytest.mark.parametrize("seed", [1, 2])
def test_fifty_quiet_weeks_looked_at_every_day(seed):
    world = World(outcomes(), 300, seed, 0)
    reference, days, alarms, before = world.reference(POLICY, texts=False), {}, 0, set()
    for number in range(350):
        days[(START + timedelta(days=number)).date()] = world.day(number, texts=False)
        days = dict(list(days.items())[-28:])
        weeks = by_week(days)
        looks = (
            check_escalation(weeks, reference, POLICY),
            check_quality(weeks, 0.04, POLICY),
            check_cost(weeks, POLICY),
        )
        fired = {check.name for check in looks if check.status is Status.ALARM}
        alarms += len(fired - before)
        before = fired
        assert number < 10 or all(check.status is not Status.UNKNOWN for check in looks)
    assert alarms <= 1


def test_a_rise_is_seen_by_its_size():
    days = [first_alarm(World(outcomes(), 700, seed, 0), 0.15, POLICY) for seed in range(5)]
    assert max(days) <= 7
    assert first_alarm(World(outcomes(), 700, 3, 0), 0.03, POLICY, weeks=4) is None
