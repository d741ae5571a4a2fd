"""Merging leaves: the tree, the cut, and silhouettes that cost a matrix product."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score

from clustering.merge import (
    Criterion,
    CutWeights,
    cut_merges,
    distances_between,
    doubt_of,
    group_distances,
    merge_leaves,
    mutual_neighbours,
    mutual_pairs,
    neighbour_bits,
    silhouette,
    silhouette_of_cut,
    tried_numbers,
    ward_merges,
)
from clustering.near import nearest_neighbors


def test_unweighted_merges_are_wards():
    points = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    merges, tree = ward_merges(points, np.ones(60, np.int64)), linkage(points, "ward")
    for k in (2, 5, 17, 59):
        assert adjusted_rand_score(fcluster(tree, k, "maxclust"), cut_merges(merges, 60, k)) == 1.0


def test_heavy_groups_merge_later_than_light_ones_at_the_same_distance():
    centres = np.array([[0, 0], [1, 0], [10, 0], [11, 0]], np.float32)
    assert ward_merges(centres, np.array([100, 100, 1, 1]))[0] == (2, 3)


def test_a_cut_has_the_asked_number_of_clusters():
    points = np.random.default_rng(1).normal(size=(30, 3)).astype(np.float32)
    merges = ward_merges(points, np.ones(30, np.int64))
    for k in (1, 2, 29, 30):
        assert len(np.unique(cut_merges(merges, 30, k))) == k


@pytest.mark.parametrize("k", [2, 7, 29])
def test_silhouettes_from_group_sums_are_those_of_the_points(k):
    rng = np.random.default_rng(2)
    points = rng.normal(size=(400, 6)).astype(np.float32)
    groups, cut = rng.integers(0, 30, 400), np.arange(30) % k
    found = silhouette_of_cut(group_distances(distances_between(points), groups, 30), groups, cut)
    assert found == pytest.approx(silhouette(points, cut[groups]), abs=1e-4)


def test_one_cluster_and_lone_points_have_no_silhouette():
    points, groups = np.eye(3, dtype=np.float32), np.arange(3)
    sums = group_distances(distances_between(points), groups, 3)
    assert silhouette_of_cut(sums, groups, np.zeros(3, np.int64)) == -1.0
    assert silhouette_of_cut(sums, groups, np.arange(3)) == 0.0


def splinters(d=4, of=90, seed=3):
    """Four groups of points, each cut at random into three splinters, and the points' 30 nearest."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(d), of)
    points = (8 * np.eye(d)[truth] + rng.normal(size=(d * of, d))).astype(np.float32)
    return truth, points, truth * 3 + rng.integers(0, 3, d * of), nearest_neighbors(points, 31)[0][:, 1:]


@pytest.mark.parametrize("weights", [CutWeights(0, 0, 0), CutWeights(0.5, 0.2, 0.7), CutWeights(0, 1, 1)])
def test_splinters_of_one_group_come_together(weights):
    truth, points, leaves, near = splinters()
    labels, value = merge_leaves(leaves, np.ones(360, bool), points, Criterion(points, near, weights).of(leaves))
    assert adjusted_rand_score(truth, labels) == 1.0
    assert value > 0


@pytest.mark.parametrize(("weights", "clusters"), [((0, 0, 0), 4), ((20, 0, 0), 12), ((20, 5, 5), 4)])
def test_chance_makes_the_cut_finer_and_doubt_coarser(weights, clusters):
    _, points, leaves, near = splinters()
    worth = Criterion(points, near, CutWeights(*weights)).of(leaves)
    labels, _ = merge_leaves(leaves, np.ones(360, bool), points, worth)
    assert labels.max() + 1 == clusters


def patches(n, seed=4):
    """Six flat squares far from one another, filled with n points, and the 25 smaller squares that each is cut into."""
    rng = np.random.default_rng(seed)
    truth, inside = np.arange(n) % 6, rng.random((n, 2))
    cells = (5 * inside).astype(int) @ np.array([1, 5])
    return truth, np.hstack([inside, 1.4 * np.eye(6)[truth]]).astype(np.float32), 25 * truth + cells


@pytest.mark.parametrize("n", [2000, 12_000])
def test_more_points_of_the_same_kind_are_not_cut_finer(n):
    truth, points, leaves = patches(n)
    near = nearest_neighbors(points, 31)[0][:, 1:]
    worth = Criterion(points, near, CutWeights(0.5, 0.2, 0.7)).of(leaves)
    labels, _ = merge_leaves(leaves, np.ones(n, bool), points, worth)
    assert adjusted_rand_score(truth, labels) == 1.0


def test_many_points_in_many_clusters_are_not_melted_for_a_few_bits():
    rng = np.random.default_rng(5)
    shares = 1 / (np.arange(100) + 10)
    truth = rng.choice(100, 10_000, p=shares / shares.sum())
    points = (4 * rng.normal(size=(100, 6))[truth] + rng.normal(size=(10_000, 6))).astype(np.float32)
    leaves = 3 * truth + rng.integers(0, 3, 10_000)
    worth = Criterion(points, nearest_neighbors(points, 31)[0][:, 1:], CutWeights(0.5, 0.2, 0.7)).of(leaves)
    labels, _ = merge_leaves(leaves, np.ones(10_000, bool), points, worth)
    assert labels.max() + 1 > 95


def test_doubt_grows_among_many_points_beyond_the_usual():
    assert doubt_of(1.5, 100) == doubt_of(1.5, 2000) == 1.5
    assert doubt_of(1.5, 16_000) == pytest.approx(0.2 + 4 * 1.3)
    assert doubt_of(0.1, 16_000) == 0.1
    assert doubt_of(0.0, 50_000) == 0.0


def test_mutual_pairs_count_only_what_goes_both_ways():
    neighbours = np.array([[1, 2], [0, 2], [3, 4], [2, 4], [2, 3]])
    pairs = mutual_pairs(mutual_neighbours(neighbours), np.array([0, 0, 0, 1, 1]), 2)
    # mutual: 0-1 inside; 2-3, 2-4 between; 3-4 inside: each in both orders
    assert pairs == pytest.approx(np.array([[2, 2], [2, 2]]) / 8)
    assert mutual_pairs(mutual_neighbours(np.array([[1], [2], [0]])), np.zeros(3, np.int64), 1).sum() == 0


def test_bits_of_neighbours():
    apart, mixed = np.eye(4) / 4, np.full((4, 4), 1 / 16)
    each, halves = np.arange(4), np.array([0, 0, 1, 1])
    assert neighbour_bits(apart, each) == pytest.approx((2, 0))
    assert neighbour_bits(apart, halves) == pytest.approx((1, 0))
    assert neighbour_bits(mixed, each) == pytest.approx((0, 2))
    assert neighbour_bits(mixed, np.zeros(4, np.int64)) == pytest.approx((0, 0))


def test_numbers_that_are_tried():
    assert tried_numbers(2) == [2]
    found = tried_numbers(700)
    assert (found[0], found[-1]) == (2, 700)
    assert all(b <= max(a + 1, round(1.12 * a)) for a, b in itertools.pairwise(found))
