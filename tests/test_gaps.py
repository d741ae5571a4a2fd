"""Rare clusters that all points show to be two, and those that stay one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from clustering import gaps
from clustering.cluster import ClusterConfig, cluster_embeddings
from clustering.gaps import MOST_CONDUCTANCE, least_cut, part_at_gaps
from flows.summary import path_sentences


def unit(points):
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def groups(sizes, apart=1.0, spread=0.1, d=32, seed=0):
    """Points around orthogonal centres, of which the last is `apart` of the way from the one before it."""
    rng = np.random.default_rng(seed)
    centres = np.eye(d)[: len(sizes)]
    centres[-1] = (1 - apart) * centres[-2] + apart * centres[-1]
    truth = np.repeat(np.arange(len(sizes)), sizes)
    return unit(centres[truth] + spread * rng.normal(size=(len(truth), d))), truth


@pytest.mark.parametrize("seed", range(5))
def test_the_least_cut_lies_in_the_gap(seed):
    points, truth = groups([120, 180], apart=0.6, seed=seed)
    conductance, side = least_cut(points, 50)
    assert conductance <= MOST_CONDUCTANCE
    assert adjusted_rand_score(truth, side) > 0.95


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [100, 1000])
def test_one_group_has_no_gap(seed, size):
    points, _ = groups([size, 0], seed=seed)
    assert least_cut(points, 50)[0] > MOST_CONDUCTANCE


def test_conductance_is_the_share_of_the_smaller_sides_edges_that_cross():
    points, _ = groups([60, 90], apart=0.35)
    conductance, side = least_cut(points, 10)
    similar = points @ points.T - 3 * np.eye(150)
    near = np.argsort(-similar, axis=1)[:, :10]
    graph = np.zeros((150, 150), bool)
    graph[np.arange(150)[:, None], near] = True
    graph |= graph.T
    volume = min(graph[side].sum(), graph[~side].sum())
    assert 0 < conductance == pytest.approx(graph[side][:, ~side].sum() / volume)


def test_either_side_has_the_fewest_points_or_there_is_none():
    points, truth = groups([140, 60], apart=0.8)
    conductance, side = least_cut(points, 60)
    assert conductance <= MOST_CONDUCTANCE
    assert sorted(np.bincount(side)) == sorted(np.bincount(truth))
    assert min(np.bincount(least_cut(points, 61)[1])) == 61, "one more, and the cut lies beside the gap"
    assert least_cut(points, 90)[0] > MOST_CONDUCTANCE
    assert least_cut(points, 101)[0] == 1.0, "200 points are not twice 101"


def test_only_rare_clusters_are_parted_and_noise_stays():
    points, truth = groups([800, 800, 100, 100], apart=0.6)
    labels = np.minimum(truth, 2).astype(np.int64)
    labels[:5] = -1
    order = np.random.default_rng(1).permutation(len(points))
    points, truth, labels = points[order], truth[order], labels[order]
    parted, count = part_at_gaps(labels, points, np.arange(0, 1800, 4), 10, 0)
    assert count == 1
    assert np.all(parted[labels == -1] == -1)
    kept = labels >= 0
    assert adjusted_rand_score(truth[kept], parted[kept]) > 0.99
    together = np.where(labels == 0, 1, labels)
    assert np.array_equal(part_at_gaps(together, points, np.arange(0, 1800, 4), 10, 0)[0] == 1, together == 1), (
        "two large groups in one cluster were seen well enough by the sample"
    )


def test_a_cluster_too_small_for_two_sides_stays_whole():
    points, truth = groups([400, 40, 40], apart=0.6)
    labels = np.minimum(truth, 1).astype(np.int64)
    assert part_at_gaps(labels, points, np.arange(0, 480, 4), 10, 0)[1] == 0


def test_of_many_members_some_are_looked_at_and_all_find_their_side(monkeypatch):
    monkeypatch.setattr(gaps, "_LOOKED_AT", 150)
    points, truth = groups([1200, 250, 200], apart=0.6)
    labels = np.minimum(truth, 1).astype(np.int64)
    parted, count = part_at_gaps(labels, points, np.arange(0, 1650, 10), 10, 0)
    assert count == 1
    assert adjusted_rand_score(truth, parted) > 0.99


def test_a_cluster_that_the_sample_hardly_met_is_looked_at_too(monkeypatch):
    monkeypatch.setattr(gaps, "_LOOKED_AT", 60)
    points, truth = groups([500, 6000, 5500], apart=0.6)
    labels, rows = np.minimum(truth, 1).astype(np.int64), np.concatenate([np.arange(500), [600, 9000]])
    parted, count = part_at_gaps(labels, points, rows, 1, 0)
    assert count == 1, "its sides have hardly a point of those looked at by their share of the sample"
    assert adjusted_rand_score(truth, parted) > 0.99


def test_clustering_above_the_sample_parts_them_and_says_so():
    points, truth = groups([1500, 1500, 1500, 160, 160], apart=0.42, spread=0.06)
    order = np.random.default_rng(0).permutation(len(points))
    points, truth = points[order], truth[order]
    config = ClusterConfig(reducer="pca", sample_points=480, min_cluster_size=12)
    found = cluster_embeddings(points, config)
    assert found.path.n_parted == 1
    assert "showed 1 rare clusters to be two" in found.why
    assert ("rare clusters of the sample that were two", "1") in path_sentences(found)
    assert adjusted_rand_score(truth, found.labels) > 0.98
