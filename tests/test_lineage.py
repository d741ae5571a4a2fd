"""Clusters keep their names: matching, and the state of each."""

from __future__ import annotations

import numpy as np
import pytest

from cascade.errors import InputError
from clustering.lineage import (
    SKETCH,
    ClusterState,
    Known,
    LineageConfig,
    Seen,
    jaccard,
    match_clusters,
    member_reach,
    member_sketch,
    similarity,
)

AXES = np.eye(6, dtype=np.float32)
NOTHING = np.empty((0, 6), np.float32), np.empty(0, bool)


def known(uid, axis, members=(), state=ClusterState.NEW, solved=False):
    return Known(uid, f"name of {uid}", state, solved, member_sketch(members), AXES[axis], 0.9)


def seen(number, axis, members=()):
    return Seen(number, member_sketch(members), AXES[axis], 0.9)


def around(axis, n, seed=0):
    points = AXES[axis] + 0.05 * np.random.default_rng(seed).normal(size=(n, 6))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def states(fates):
    return {fate.uid: str(fate.state) for fate in fates}


def test_everything_is_new_at_first():
    fates = match_clusters([seen(0, 0), seen(1, 1)], [], *NOTHING, next_number=1)
    assert [(f.uid, f.state, f.cluster) for f in fates] == [
        ("c-0001", ClusterState.NEW, 0),
        ("c-0002", ClusterState.NEW, 1),
    ]


def test_the_four_states_and_the_two_ways_to_be_gone():
    earlier = [
        known("c-0001", 0),
        known("c-0002", 1),
        known("c-0003", 2, state=ClusterState.SOLVED, solved=True),
        known("c-0004", 3),
        known("c-0005", 4),
    ]
    traffic = np.vstack([around(0, 30), around(1, 40), around(2, 25), around(4, 2)])
    escalated = np.repeat([True, False, True, False], [30, 40, 25, 2])
    fates = match_clusters([seen(0, 0), seen(1, 2), seen(2, 5)], earlier, traffic, escalated, 6)
    assert states(fates) == {
        "c-0001": "persisting",
        "c-0003": "regressed",
        "c-0006": "new",
        "c-0002": "solved",
        "c-0004": "vanished",
        "c-0005": "vanished",
    }
    by_uid = {fate.uid: fate for fate in fates}
    assert "of 40 queries of its kind in the window's traffic 0 escalated" in by_uid["c-0002"].why
    assert "2 queries of its kind" in by_uid["c-0005"].why
    assert by_uid["c-0002"].cluster is None


def test_traffic_that_still_escalates_without_a_cluster_is_not_solved():
    escalated = np.arange(20) < 15
    (fate,) = match_clusters([], [known("c-0001", 0)], around(0, 20), escalated, 2)
    assert (fate.state, fate.cluster) == (ClusterState.PERSISTING, None)


def test_a_cluster_that_was_solved_and_vanished_regresses_when_it_is_back():
    vanished = known("c-0001", 0, state=ClusterState.VANISHED, solved=True)
    unsolved = known("c-0002", 1, state=ClusterState.VANISHED, solved=False)
    fates = match_clusters([seen(0, 0), seen(1, 1)], [vanished, unsolved], *NOTHING, next_number=3)
    assert states(fates) == {"c-0001": "regressed", "c-0002": "persisting"}


def test_pairs_are_chosen_together_not_greedily():
    # 1 is likest to both; taking it for the first would leave the second without a partner.
    config = LineageConfig(min_similarity=0.1)
    words = [f"query {i}" for i in range(100)]
    earlier = [known("c-0001", 0, words[:60]), known("c-0002", 1, words[30:])]
    now = [seen(0, 2, words[20:60]), seen(1, 3, words[:20])]
    assert similarity(now[0], earlier[0], config) > similarity(now[0], earlier[1], config) > 0.1
    assert states(match_clusters(now, earlier, *NOTHING, next_number=3, config=config)) == {
        "c-0002": "persisting",
        "c-0001": "persisting",
    }


def test_members_match_where_the_centroid_moved_and_the_other_way_round():
    words = [f"query {i}" for i in range(50)]
    config = LineageConfig()
    assert similarity(seen(0, 0, words), known("c-0001", 1, words[:40]), config) == pytest.approx(1.0)
    assert similarity(seen(0, 0, words), known("c-0001", 0, ["else"]), config) == pytest.approx(1.0)
    assert similarity(seen(0, 0, words), known("c-0001", 1, ["else"]), config) == 0.0


def test_sketches_estimate_jaccard():
    one, other = [f"q{i}" for i in range(20_000)], [f"q{i}" for i in range(10_000, 30_000)]
    assert len(member_sketch(one)) == SKETCH
    assert jaccard(member_sketch(one), member_sketch(other)) == pytest.approx(1 / 3, abs=0.05)
    assert jaccard(member_sketch(["A  b"]), member_sketch(["a b"])) == 1.0
    assert jaccard(frozenset(), frozenset()) == 0.0


def test_reach_leaves_out_the_far_twentieth():
    cosines = np.linspace(0, 1, 101)
    vectors = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).astype(np.float32)
    assert member_reach(vectors, np.array([1, 0], np.float32)) == pytest.approx(0.05, abs=1e-6)


def test_another_embedder_is_refused():
    with pytest.raises(InputError, match=r"\[3, 6\] dimensions meet"):
        match_clusters([seen(0, 0)], [known("c-0001", 0)], np.empty((1, 3), np.float32), np.ones(1, bool), 2)
