from __future__ import annotations

import numpy as np
import pytest

from evaluation.matched import Swept, accepted_at_quality, costs_at_quality


def swept(score, cheap, flagship=None):
    n = len(score)
    return Swept(
        np.array(score, float),
        np.array(cheap, float),
        np.full(n, 0.1),
        np.ones(n) if flagship is None else np.array(flagship, float),
        np.full(n, 1.0),
    )


def test_the_lowest_threshold_that_keeps_the_quality():
    rows = swept([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1])
    assert accepted_at_quality(rows, 1.0).tolist() == [True, True, False, False]
    # One wrong in four is allowed: everything is accepted.
    assert accepted_at_quality(rows, 0.75).tolist() == [True] * 4
    assert costs_at_quality(rows, 1.0) == pytest.approx([0.1, 0.1, 1.1, 1.1])


def test_equal_scores_stand_or_fall_together():
    rows = swept([0.9, 0.5, 0.5], [1, 1, 0])
    assert accepted_at_quality(rows, 1.0).tolist() == [True, False, False]


def test_what_a_rule_rejected_is_never_accepted():
    rows = swept([0.9, -np.inf], [1, 1])
    assert accepted_at_quality(rows, 0.0).tolist() == [True, False]


def test_a_quality_out_of_reach_escalates_all():
    assert not accepted_at_quality(swept([0.9, 0.8], [0, 0]), 0.9).any()


def test_a_cheap_answer_may_be_better_than_the_flagships():
    rows = swept([0.9, 0.8], [1, 1], flagship=[0, 1])
    assert accepted_at_quality(rows, 1.0).tolist() == [True, True]


def test_better_separation_costs_less_at_equal_quality():
    rng = np.random.default_rng(0)
    right = (rng.random(2000) < 0.6).astype(float)
    blurred, sharp = (right + noise * rng.normal(size=2000) for noise in (1.0, 0.3))
    assert costs_at_quality(swept(sharp, right), 0.95).sum() < 0.8 * costs_at_quality(swept(blurred, right), 0.95).sum()
