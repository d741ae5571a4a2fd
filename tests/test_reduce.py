"""The picture of many points."""

from __future__ import annotations

import numpy as np

from clustering import reduce
from clustering.reduce import lay_flat


def test_of_many_points_some_are_laid_and_each_other_lies_beside_one_of_its_own_group(monkeypatch):
    monkeypatch.setattr(reduce, "_FLAT_POINTS", 200)
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 4, 700)
    reduced = (20 * rng.normal(size=(4, 5))[groups] + rng.normal(size=(700, 5))).astype(np.float32)
    flat = lay_flat(reduced, 15, seed=0)
    assert flat.shape == (700, 2) and np.isfinite(flat).all()
    assert len(np.unique(flat, axis=0)) == 700, "points that share a place would hide one another"
    centres = np.stack([flat[groups == g].mean(axis=0) for g in range(4)])
    nearest = np.linalg.norm(flat[:, None] - centres[None], axis=2).argmin(axis=1)
    assert np.mean(nearest == groups) > 0.99
    assert np.array_equal(flat, lay_flat(reduced, 15, seed=0))
