"""Merging leaves: the tree, the cut, and silhouettes that cost a matrix product."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score

from clustering.merge import (
    cut_merges,
    group_distances,
    merge_leaves,
    silhouette,
    silhouette_of_cut,
    tried_numbers,
    ward_merges,
)


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
    found = silhouette_of_cut(group_distances(points, groups, 30), groups, cut)
    assert found == pytest.approx(silhouette(points, cut[groups]), abs=1e-4)


def test_one_cluster_and_lone_points_have_no_silhouette():
    points, groups = np.eye(3, dtype=np.float32), np.arange(3)
    sums = group_distances(points, groups, 3)
    assert silhouette_of_cut(sums, groups, np.zeros(3, np.int64)) == -1.0
    assert silhouette_of_cut(sums, groups, np.arange(3)) == 0.0


def test_splinters_of_one_group_come_together():
    rng = np.random.default_rng(3)
    truth = np.repeat(np.arange(4), 90)
    points = (8 * np.eye(4)[truth] + rng.normal(size=(360, 4))).astype(np.float32)
    splinters = truth * 3 + rng.integers(0, 3, 360)
    labels, value = merge_leaves(
        splinters, np.ones(360, bool), points, points, original_weight=1.0, tolerance=0.0, seed=0
    )
    assert adjusted_rand_score(truth, labels) == 1.0
    assert 0 < value <= 2


def test_numbers_that_are_tried():
    assert tried_numbers(2) == [2]
    found = tried_numbers(700)
    assert (found[0], found[-1]) == (2, 700)
    assert all(b <= max(a + 1, round(1.12 * a)) for a, b in itertools.pairwise(found))
