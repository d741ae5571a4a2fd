from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from cascade.errors import InputError
from cascade.trace import Answer, Query
from clustering.cluster import Clustering
from clustering.collect import Escalation
from clustering.describe import describe_clusters
from clustering.target import TargetConfig, select_targeted

TIME = datetime(2026, 3, 2, tzinfo=UTC)


def world(*groups, spread=0.5, n_noise=0, seed=0):
    """groups: (size, share wrong[, cost[, user]]) -> escalations, labels, clusters, embeddings."""
    rng = np.random.default_rng(seed)
    rows, labels, points = [], [], []
    for number, (size, wrong, *more) in enumerate([*groups, (n_noise, 1.0)]):
        cost, user = (more + [0.01, None][len(more) :])[:2]
        label = -1 if number == len(groups) else number
        for i in range(size):
            name = f"{label}-{i}"
            query = Query(name, TIME, "r", ({"role": "user", "content": name},))
            right = None if wrong is None else i >= round(wrong * size)
            cheap = Answer("x", "m", 1, 1, 0.1, "stop")
            rows.append(Escalation(name, TIME, name, query, cheap, None, right, user or name, cost))
            labels.append(label)
            points.append(np.eye(64)[label] + spread * rng.normal(size=64))
    points = np.array(points, np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    labels = np.array(labels, np.int64)
    clusters = describe_clusters(
        Clustering(labels, labels < -1, np.zeros((len(rows), 2), np.float32), "test", "by hand"), points, rows
    )
    return rows, labels, clusters, points


def select(parts, n, **settings):
    more = {key: settings.pop(key) for key in ("seed", "teachable") if key in settings}
    return select_targeted(*parts, TargetConfig(n_answers=n, **settings), **more)


def test_bigger_clusters_get_more_and_small_ones_are_not_forgotten():
    result = select(world((200, 1.0), (100, 1.0), (50, 1.0)), 100)
    counts = [result.per_cluster[i] for i in range(3)]
    assert sum(counts) == len(result.query_ids) == 100
    assert counts[0] > counts[1] > counts[2] >= 5


def test_choice_is_the_optimum_of_the_stated_value():
    """Against trying every split of 12 answers over three clusters."""
    sizes, wrongs, n0, n = (90, 60, 40), (1.0, 0.8, 1.0), 6.0, 12
    parts = world(*zip(sizes, wrongs, strict=True))
    result = select(parts, n, answers_to_teach=n0)
    worth = [s * (round(w * s) + 0.5) / (s + 1) for s, w in zip(sizes, wrongs, strict=True)]

    def value(counts):
        return sum(v * (1 - np.exp(-m / n0)) for v, m in zip(worth, counts, strict=True))

    best = max(((a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)), key=value)
    assert tuple(result.per_cluster.get(i, 0) for i in range(3)) == best


def test_cheap_right_escalations_are_not_bought_even_when_answers_are_left():
    result = select(world((100, 1.0), (300, 0.0)), 150)
    assert result.per_cluster == {0: 100}
    assert result.dropped == {"cheap answer was right": 300}
    allowed = select(world((100, 1.0), (300, 0.0)), 150, include_cheap_right=True)
    assert allowed.per_cluster[0] > 20 * allowed.per_cluster.get(1, 0) > 0 or allowed.per_cluster == {0: 100, 1: 50}


def test_mostly_right_clusters_get_less_than_wrong_ones_of_their_size():
    result = select(world((100, 1.0), (100, 0.3)), 40)
    assert result.per_cluster[0] > 1.5 * result.per_cluster.get(1, 0)


def test_unknown_grades_are_worth_buying():
    result = select(world((100, None), (100, 1.0)), 40)
    assert 0 < result.per_cluster[0] < result.per_cluster[1]


def test_dearer_escalations_are_worth_more_but_only_if_all_costs_are_known():
    dear = select(world((100, 1.0, 0.05), (100, 1.0, 0.01)), 40)
    assert dear.per_cluster[0] > 3 * dear.per_cluster.get(1, 0)
    unknown = select(world((100, 1.0, 0.05), (100, 1.0, None)), 40)
    assert unknown.per_cluster == {0: 20, 1: 20}


def test_what_the_cheap_tier_knows_around_is_left():
    shares = np.repeat([0.2, 0.9], 100)
    result = select(world((100, 1.0), (100, 1.0)), 40, teachable=shares)
    assert result.per_cluster == {1: 40}
    assert result.dropped["the cheap tier knows what is around it"] == 100
    anywhere = select(world((100, 1.0), (100, 1.0)), 40, teachable=shares, min_teachable=0.0)
    assert anywhere.per_cluster[1] > 3 * anywhere.per_cluster.get(0, 0)


def test_teachable_clusters_get_more():
    result = select(world((100, 1.0), (100, 1.0)), 40, teachable=np.repeat([0.6, 0.9], 100))
    assert result.per_cluster[1] > result.per_cluster[0] > 5


def test_no_near_duplicates():
    parts = world((100, 1.0), spread=0.002)
    result = select(parts, 50)
    assert len(result.query_ids) == 1
    assert result.dropped == {"near-duplicate": 99}


def test_users_are_capped_across_clusters():
    result = select(world((50, 1.0, 0.01, "loud"), (50, 1.0, 0.01, "loud"), (50, 1.0)), 60, per_user_cap=7)
    assert result.per_cluster[0] + result.per_cluster[1] == 7
    assert result.per_cluster[2] == 50
    assert result.dropped["user at the cap"] == 93


def test_noise_is_a_capped_tail_not_a_cluster():
    result = select(world((100, 1.0), n_noise=500), 100, noise_share_cap=0.1)
    assert result.per_cluster == {0: 90, -1: 10}
    assert -1 not in select(world((100, 1.0), n_noise=500), 100, noise_share_cap=0.0).per_cluster


def test_noise_alone_fills_no_more_than_its_cap():
    result = select(world(n_noise=50), 40, noise_share_cap=0.25)
    assert result.per_cluster == {-1: 10}


def test_every_escalation_is_chosen_or_has_a_reason():
    parts = world((80, 0.5, 0.01, "loud"), (60, 1.0), n_noise=30)
    result = select(parts, 40, per_user_cap=5)
    assert len(result.query_ids) + sum(result.dropped.values()) == 170
    assert len(set(result.query_ids)) == len(result.query_ids)


def test_first_buy_of_a_cluster_is_its_medoid():
    parts = world((60, 1.0))
    points = parts[3]
    medoid = int(np.argmax(points @ points.mean(axis=0)))
    assert select(parts, 5).query_ids[0] == f"0-{medoid}"


def test_same_input_same_choice():
    parts = world((80, 0.7), (60, 1.0), n_noise=30)
    assert select(parts, 40, seed=1) == select(parts, 40, seed=1)


def test_lengths_must_agree():
    rows, labels, clusters, points = world((10, 1.0))
    with pytest.raises(InputError, match="9 embeddings"):
        select((rows, labels, clusters, points[:-1]), 5)
    with pytest.raises(InputError, match="3 teachable shares for 10"):
        select((rows, labels, clusters, points), 5, teachable=np.ones(3))
