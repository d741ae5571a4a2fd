"""Metrics against numbers worked out by hand and by scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cascade.errors import InputError
from cascade.trace import Answer
from evaluation.intervals import clopper_pearson, tango_difference, wilson
from evaluation.metrics import MetricsConfig, compare, compare_clusters, verifier_auroc
from evaluation.replay import PairedRow, Side

ANSWER = Answer("x", "m", 1, 1, None, "stop")


def side(accepted, correct, cost=None):
    served = correct if accepted else 1.0
    return Side(ANSWER, True, 0.5, accepted, correct, served, (1.0 if accepted else 11.0) if cost is None else cost)


def row(i, champion, candidate, cluster=None, flagship_cost=10.0):
    return PairedRow(f"q{i}", "", cluster, "x", champion, candidate, ANSWER, flagship_cost)


def example():
    """100 rows: the champion escalates 40 and is wrong on 3 of 60; the candidate 20 and 4 of 80."""
    champion = [side(i >= 40, float(i not in {50, 60, 70} and i >= 20)) for i in range(100)]
    candidate = [side(i >= 20, float(i not in {50, 30, 80, 90})) for i in range(100)]
    return [row(i, a, b, cluster=i % 3 - 1) for i, (a, b) in enumerate(zip(champion, candidate, strict=True))]


def test_numbers_by_hand():
    found = compare(example(), MetricsConfig(alpha=0.025))
    assert found.champion.escalation_rate == wilson(40, 100, 0.95)
    assert found.candidate.escalation_rate.value == 0.2
    assert found.champion.accepted_error == clopper_pearson(3, 60, 0.95)
    assert (found.candidate.accepted_error.value, found.candidate.n_accepted_wrong) == (0.05, 4)
    assert (found.champion.quality.value, found.candidate.quality.value) == (0.97, 0.96)
    assert found.champion.cheap_quality.value == 0.77
    assert found.champion.cost_per_1000_usd.value == pytest.approx(1000 * (60 + 40 * 11) / 100)
    assert found.champion.ratio_to_flagship.value == pytest.approx(0.5)
    paired = found.paired
    assert (paired.n_better, paired.n_worse, paired.graded) == (2, 3, False)
    assert paired.quality_difference == tango_difference(2, 3, 100, 0.95, correction=0.5)
    assert paired.cost_saving.value == pytest.approx(1 - 300 / 500)
    assert paired.saved_per_1000_usd.value == pytest.approx(2000)
    assert paired.escalation_cut.value == pytest.approx(0.5)
    assert paired.escalation_cut.low > 0.3


def test_clusters_are_the_rows_of_each_and_noise_is_none():
    rows = example()
    found = compare_clusters(rows, MetricsConfig(), {0: "refund"})
    assert [(c.cluster, c.name, c.paired.n) for c in found] == [(0, "refund", 33), (1, "cluster 1", 33)]
    alone = compare([r for r in rows if r.cluster == 1], MetricsConfig(), "cluster 1", 1)
    assert found[1] == alone


def test_unknown_costs_are_left_out_on_both_sides_and_counted():
    rows = example()
    rows[0] = replace(rows[0], champion=replace(rows[0].champion, cost_usd=None))
    rows[1] = replace(rows[1], flagship_cost_usd=None, candidate=replace(rows[1].candidate, cost_usd=None))
    found = compare(rows, MetricsConfig())
    assert found.paired.n_cost_unknown == 2
    assert found.paired.cost_saving.n == 98
    assert found.paired.cost_saving.value == pytest.approx(1 - (300 - 22) / (500 - 22))
    assert (found.champion.n_cost_unknown, found.champion.ratio_to_flagship.n) == (1, 98)
    none = [replace(r, champion=replace(r.champion, cost_usd=None), flagship_cost_usd=None) for r in rows]
    blank = compare(none, MetricsConfig())
    assert blank.paired.cost_saving is None
    assert blank.champion.cost_per_1000_usd is None
    assert blank.candidate.ratio_to_flagship is None


def test_graded_quality_uses_the_bootstrap():
    rows = [row(i, side(True, 0.5 + 0.5 * (i % 2)), side(True, 0.8 + 0.2 * (i % 2))) for i in range(40)]
    found = compare(rows, MetricsConfig())
    assert found.paired.graded
    assert found.paired.quality_difference.value == pytest.approx(0.15)
    assert found.paired.quality_difference.method == "bootstrap-expanded"
    assert found.paired.n_better == 20
    assert found.champion.accepted_error.value == 0.5


def test_edges_say_unknown_instead_of_zero():
    nothing_accepted = [row(i, side(False, 0.0), side(True, 1.0)) for i in range(5)]
    assert compare(nothing_accepted, MetricsConfig()).champion.accepted_error is None
    nothing_escalated = [row(i, side(True, 1.0), side(False, 1.0)) for i in range(5)]
    assert compare(nothing_escalated, MetricsConfig()).paired.escalation_cut is None
    single = compare([row(0, side(True, 0.5), side(True, 1.0))], MetricsConfig())
    assert single.paired.cost_saving is None
    assert single.champion.quality.low < 0.5 < single.champion.quality.high
    with pytest.raises(InputError, match="no held-out rows"):
        compare([], MetricsConfig())


def test_auroc_equals_scikit_learn():
    rng = np.random.default_rng(0)
    right = rng.random(300) < 0.7
    scores = np.round(np.clip(rng.normal(0.5 + 0.2 * right, 0.2), 0, 1), 1)  # rounded: with ties
    sides = [replace(side(True, float(r)), score=float(s)) for r, s in zip(right, scores, strict=True)]
    sides.append(replace(side(True, 1.0), score=None))
    assert verifier_auroc(sides) == pytest.approx(roc_auc_score(right, scores))
    assert verifier_auroc([s for s in sides if s.correct_cheap]) is None
