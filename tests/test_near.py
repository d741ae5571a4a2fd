"""Neighbours in single precision and by cells, beside those that are looked for one by one."""

from __future__ import annotations

import numpy as np
import pytest

from clustering import near
from clustering.near import Cells, nearest_neighbors


def unit(n, d=32, groups=40, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(groups, d))[rng.integers(0, groups, n)] + 0.5 * rng.normal(size=(n, d))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("n", [31, 40, 71, 1337, 2500])
def test_neighbours_by_products_are_the_exact_ones(monkeypatch, n):
    points = unit(n)
    exact, distances = nearest_neighbors(points, 31)
    monkeypatch.setattr(near, "MANY_POINTS", 30)
    found, found_distances = nearest_neighbors(points, 31)
    assert np.array_equal(found[:, 0], np.arange(n))
    assert np.mean(found == exact) > 0.999, "but for ties in the last digit"
    assert found_distances == pytest.approx(distances, abs=1e-4)
    assert (found.dtype, found_distances.dtype) == (exact.dtype, distances.dtype)


def test_copies_of_a_point_are_at_no_distance_in_single_precision(monkeypatch):
    monkeypatch.setattr(near, "MANY_POINTS", 30)
    indices, distances = nearest_neighbors(np.repeat(unit(20), 3, axis=0), 5)
    assert np.all(distances[:, :3] == 0)
    assert np.all(distances[:, 3:] > 0)
    assert np.array_equal(indices[:, 0], np.arange(60))
    assert np.array_equal(indices[:, :3] // 3, np.repeat(np.arange(20), 3)[:, None].repeat(3, axis=1))


def test_few_points_are_looked_through_whole():
    points, queries = unit(500), unit(300, seed=1)
    found, cosines = Cells(points, 0).nearest(queries)
    assert np.array_equal(found, (queries @ points.T).argmax(axis=1))
    assert cosines == pytest.approx((queries @ points.T).max(axis=1), abs=1e-6)


def test_cells_find_the_nearest_of_many_points_or_one_hardly_farther():
    points, queries = unit(6000), unit(2000, seed=0)
    found, cosines = Cells(points, 0).nearest(queries)
    products = queries @ points.T
    assert np.mean(found == products.argmax(axis=1)) > 0.97
    assert cosines == pytest.approx(products[np.arange(2000), found], abs=1e-6)
    assert np.mean(products.max(axis=1) - cosines) < 0.005


def test_the_same_seed_has_the_same_cells():
    points, queries = unit(6000), unit(500, seed=1)
    assert np.array_equal(Cells(points, 3).nearest(queries)[0], Cells(points, 3).nearest(queries)[0])


def test_equal_points_share_a_cell_and_do_no_harm():
    points = np.repeat(unit(3), 1000, axis=0)
    found, cosines = Cells(points, 0).nearest(points[::500])
    assert np.array_equal(found // 1000, np.arange(0, 3000, 500) // 1000)
    assert cosines == pytest.approx(1.0, abs=1e-5)
