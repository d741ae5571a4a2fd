from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from cascade.errors import InputError
from cascade.trace import Answer, Query
from clustering.cluster import Clustering
from clustering.collect import Escalation
from clustering.describe import assign_to_clusters, describe_clusters, exemplar_index, farthest_first

TIME = datetime(2026, 3, 2, tzinfo=UTC)


def escalation(name, text, right=None, cost=0.01):
    query = Query(name, TIME, "r", ({"role": "user", "content": text},))
    cheap = Answer("x", "cheap", 1, 1, 0.1, "stop")
    return Escalation(name, TIME, text, query, cheap, None, right, None, cost)


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clustering(labels):
    labels = np.asarray(labels, np.int64)
    return Clustering(labels, np.zeros(len(labels), bool), np.zeros((len(labels), 2), np.float32), "test", "by hand")


LABELS = [0, 0, 0, 1, 1, -1]
POINTS = unit([[10, 0, 0], [10, 1, 0], [10, -2, 0], [0, 10, 1], [0, 10, 0], [0, 0, 9]])
ROWS = [
    escalation("a", "please cancel the drone order 4711", False),
    escalation("b", "cancel my drone delivery", False, 0.02),
    escalation("c", "the drone order must be cancelled, cancel the drone", True),
    escalation("d", "please renew my gift card", None),
    escalation("e", "gift card balance", False, None),
    escalation("f", "zebra zebra zebra", False),
]


def test_counts_costs_and_shares():
    first, second = describe_clusters(clustering(LABELS), POINTS, ROWS)
    assert (first.id, first.size, first.share) == (0, 3, 0.5)
    assert (first.n_cheap_wrong, first.n_cheap_right, first.n_unknown) == (2, 1, 0)
    assert (second.n_cheap_wrong, second.n_cheap_right, second.n_unknown) == (1, 0, 1)
    assert first.escalated_cost_usd == pytest.approx(0.04)
    assert second.escalated_cost_usd is None, "one unknown cost makes the sum unknown"


def test_exemplars_are_central_and_the_centroid_is_a_unit_vector():
    first, _ = describe_clusters(clustering(LABELS), POINTS, ROWS, n_exemplars=2)
    assert first.exemplar_ids == ("a", "b")
    assert np.linalg.norm(first.centroid) == pytest.approx(1)


def test_terms_tell_the_cluster_from_the_others():
    first, second = describe_clusters(clustering(LABELS), POINTS, ROWS)
    assert "drone" in " ".join(first.terms[:2])
    assert "gift card" in second.terms or {"gift", "card"} <= set(second.terms)
    assert "gift" in second.name
    words = {w for c in (first, second) for t in c.terms for w in t.split()}
    assert not words & {"the", "my", "4711", "zebra"}, "stop words, numbers and noise are no terms"


def test_clusters_without_words_still_have_a_name():
    (only,) = describe_clusters(clustering([0, 0]), POINTS[:2], [escalation("a", "1 2 3"), escalation("b", "??")])
    assert (only.terms, only.name) == ((), "cluster 0")


def test_lengths_must_agree():
    with pytest.raises(InputError, match="6 escalations"):
        describe_clusters(clustering(LABELS[:-1]), POINTS, ROWS)


def test_no_clusters_at_all():
    assert describe_clusters(clustering([-1, -1]), POINTS[:2], ROWS[:2]) == []
    index = exemplar_index(clustering([-1, -1]), POINTS[:2])
    assert assign_to_clusters(POINTS, index).tolist() == [-1] * 6


def test_new_points_go_to_the_nearest_exemplar_or_to_none():
    rng = np.random.default_rng(0)
    centres = np.eye(16)[:3]
    points = unit(np.vstack([c + 0.08 * rng.normal(size=(100, 16)) for c in centres]))
    labels = np.repeat([0, 1, 2], 100)
    index = exemplar_index(clustering(labels), points, per_cluster=10)
    assert index.embeddings.shape == (30, 16)
    assert np.mean(assign_to_clusters(points, index) == labels) > 0.98
    new = unit(np.vstack([c + 0.08 * rng.normal(size=(100, 16)) for c in centres]))
    assert np.mean(assign_to_clusters(new, index) == labels) > 0.95
    far = unit(np.vstack([np.eye(16)[5:9], -centres]))
    assert assign_to_clusters(far, index).tolist() == [-1] * 7
    assert np.all(assign_to_clusters(far, index, max_distance=2.0) >= 0)


def test_equal_members_are_within_reach_of_each_other():
    points = np.repeat(POINTS[:1], 5, axis=0)
    index = exemplar_index(clustering([0] * 5), points)
    assert assign_to_clusters(points, index).tolist() == [0] * 5


def test_farthest_first_spreads_and_stops_at_near_duplicates():
    points = unit([[1, 0], [1, 0.001], [1, 0.002], [0, 1], [-1, 0.1], [1, 0.3]])
    order = farthest_first(points, 6)
    assert sorted(order) == list(range(6))
    assert set(farthest_first(points, 4)) >= {3, 4}
    diverse = farthest_first(points, 6, max_cosine=0.99)
    assert len(diverse) == 4
    assert sum(i in diverse for i in (0, 1, 2)) == 1
    similarity = points[diverse] @ points[diverse].T - 2 * np.eye(4)
    assert similarity.max() <= 0.99
    assert farthest_first(points[:0], 3) == farthest_first(points, 0) == []
