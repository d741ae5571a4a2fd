from __future__ import annotations

import numpy as np
import pytest

from cascade.errors import InputError
from clustering.teachable import teachable_shares


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_share_is_the_mean_of_the_nearest():
    traffic = unit([[1, 0], [1, 0.1], [1, 0.2], [0, 1], [0.1, 1]])
    p_wrong = np.array([1.0, 0.8, 0.6, 0.1, 0.2])
    found = teachable_shares(unit([[1, 0], [0, 1]]), np.array([-1, -1]), traffic, p_wrong, 2)
    assert found == pytest.approx([0.9, 0.15])


def test_a_query_is_not_its_own_neighbour():
    traffic = unit([[1, 0], [1, 0.1], [1, 0.2], [0, 1]])
    p_wrong = np.array([1.0, 0.0, 0.0, 0.5])
    assert teachable_shares(traffic[:1], np.array([0]), traffic, p_wrong, 2) == pytest.approx([0.0])


def test_a_kind_of_query_that_is_missing_stands_out_from_odd_ones_out():
    rng = np.random.default_rng(0)
    known, missing = rng.normal([4, 0, 0, 0], 1, (300, 4)), rng.normal([0, 4, 0, 0], 1, (100, 4))
    traffic = unit(np.concatenate([known, missing]))
    wrong = np.concatenate([rng.random(300) < 0.1, np.ones(100, bool)]).astype(np.float64)
    escalated = np.flatnonzero(wrong)
    shares = teachable_shares(traffic[escalated], escalated, traffic, wrong, 20)
    assert np.mean(shares[escalated >= 300] > 0.5) > 0.95
    assert np.mean(shares[escalated < 300] < 0.5) > 0.8


def test_neighbours_are_capped_by_the_traffic():
    traffic = unit([[1, 0], [0, 1], [1, 1]])
    assert teachable_shares(traffic[:1], np.array([0]), traffic, np.array([1.0, 0.2, 0.4]), 20) == pytest.approx([0.3])


def test_parts_must_fit():
    traffic = unit([[1, 0], [0, 1]])
    with pytest.raises(InputError, match="2 queries with 1 P"):
        teachable_shares(traffic, np.array([0, 1]), traffic, np.array([1.0]), 5)
    with pytest.raises(InputError, match="no neighbours"):
        teachable_shares(traffic[:1], np.array([0]), traffic[:1], np.array([1.0]), 5)
