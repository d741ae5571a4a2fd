"""How much an answer to an escalated query can save: how often the cheap tier is wrong on the queries around it.

An answer teaches its neighbourhood. Where most of the traffic around a query is answered rightly, its escalation was an
odd one out, or no rule of this kind of query: an answer bought there teaches what is known already. Where most of it is
wrong, the answer stands for a kind of query that is missing. All that is needed is there before anything is bought: the
traffic's embeddings and the verifier's calibrated P(wrong).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cascade.errors import InputError

Floats = NDArray[np.float32]
_BLOCK = 1024  # queries compared with the traffic at a time
MOST_TRAFFIC = 20_000
"""Queries of the traffic that are worth looking at; of more, an even sample tells as much."""


def teachable_shares(
    points: Floats, own: NDArray[np.int64], traffic: Floats, p_wrong: NDArray[np.float64], neighbours: int
) -> NDArray[np.float64]:
    """(n,) mean P(wrong) of the `neighbours` queries of the traffic nearest to each of n points, 0..1.

    `points` (n, d) and `traffic` (m, d) are unit vectors, `p_wrong` (m,) is 0..1; `own` (n,) is the row of the traffic
    that is the point itself, which is no neighbour, or -1. A text that comes many times should stand in the traffic
    once. Raises InputError when the parts differ in length or the traffic has fewer than two queries.
    """
    if not len(points) == len(own) or not len(traffic) == len(p_wrong):
        raise InputError(
            f"{len(points)} points with {len(own)} rows, {len(traffic)} queries with {len(p_wrong)} P(wrong):"
            " give one for each"
        )
    if len(traffic) < 2:
        raise InputError(f"{len(traffic)} queries of traffic have no neighbours: give the whole window's")
    k = min(neighbours, len(traffic) - 1)
    found = [
        _block(points[start : start + _BLOCK], own[start : start + _BLOCK], traffic, p_wrong, k)
        for start in range(0, len(points), _BLOCK)
    ]
    return np.concatenate(found) if found else np.zeros(0)


def _block(
    points: Floats, own: NDArray[np.int64], traffic: Floats, p_wrong: NDArray[np.float64], k: int
) -> NDArray[np.float64]:
    cosines = points @ traffic.T
    rows = np.flatnonzero(own >= 0)
    cosines[rows, own[rows]] = -np.inf
    nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    return np.asarray(p_wrong[nearest].mean(axis=1), np.float64)
