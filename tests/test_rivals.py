from __future__ import annotations

import numpy as np

from clustering.rivals import select_largest_gaps, select_least_sure, select_random


def test_random_choice_depends_on_the_set_and_the_seed_alone():
    ids = [f"q{i}" for i in range(50)]
    chosen = select_random(ids, 10, 1)
    assert len(set(chosen)) == 10
    assert select_random(ids[::-1] + ids, 10, 1) == chosen
    assert select_random(ids, 10, 2) != chosen
    assert sorted(select_random(ids, 99, 1)) == sorted(ids)


def test_the_least_sure_lie_nearest_to_one_half():
    assert select_least_sure({"a": 0.9, "b": 0.45, "c": 0.1, "d": 0.7}, 2) == ("b", "d")


def groups(sizes, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    points = np.eye(32)[labels] + 0.05 * rng.normal(size=(len(labels), 32))
    return labels, (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def test_the_largest_gaps_come_from_the_five_clusters_with_most_wrong():
    labels, points = groups([60] * 10)
    p_wrong = np.where(labels < 5, 0.9, 0.2)
    chosen = select_largest_gaps([f"q{i}" for i in range(600)], points, p_wrong, 250, 1)
    assert len(set(chosen)) == 250
    assert {labels[int(i[1:])] for i in chosen} == {0, 1, 2, 3, 4}


def test_further_clusters_follow_where_five_hold_too_few():
    labels, points = groups([60] * 10)
    p_wrong = 0.9 - 0.05 * labels
    chosen = [labels[int(i[1:])] for i in select_largest_gaps([f"q{i}" for i in range(600)], points, p_wrong, 400, 1)]
    assert {label: chosen.count(label) for label in range(10) if label in chosen} == {
        **dict.fromkeys(range(6), 60),
        6: 40,
    }
