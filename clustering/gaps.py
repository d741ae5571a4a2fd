"""Rare clusters of a sample, looked at once more with all their points.

Two kinds of query with a few dozen points each in the sample can share a cluster: the neighbours of either are half of
the other kind. Among all their points there may be a gap that the sample is too thin to show. It is looked for by
spectral bisection of the graph of nearest neighbours (Shi and Malik, "Normalized cuts and image segmentation", 2000):
along the graph's second eigenvector, the cut of least conductance (the sweep of Cheeger's inequality, Chung,
"Spectral graph theory", 1997).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustering.near import Cells, nearest_neighbors

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Side = NDArray[np.bool_]
MOST_CONDUCTANCE = 0.05
"""A cut is a gap where at most this share of the smaller side's edges crosses it."""
_RARE = 8  # times the smallest group that the sample is searched for: a larger cluster was seen well enough
_NEIGHBOURS = 10
_FEWEST = 50  # members of a side: fewer are a line of neighbours, which any cut parts at little cost
_LOOKED_AT = 1000  # members of a cluster at most


def part_at_gaps(labels: Labels, embeddings: Floats, rows: Labels, least: int, seed: int) -> tuple[Labels, int]:
    """(n,) labels in which rare clusters with a gap are two, the new ones numbered after the others, and how many are.

    `labels` (n,) of the (n, d) unit vectors, -1 is noise; `rows` are those of the sample, of which `least` is the
    smallest group that was looked for. A side is at least as large a share of all points as that is of the sample.
    """
    parted, count = labels.copy(), int(labels.max(initial=-1)) + 1
    sampled = np.bincount(labels[rows][labels[rows] >= 0], minlength=count)
    fewest = max(_FEWEST, round(least * len(labels) / len(rows)))
    new = count
    for cluster in np.flatnonzero(sampled <= _RARE * least):
        members = np.flatnonzero(labels == cluster)
        if len(members) < 2 * fewest:
            continue
        side = _side_of(np.asarray(embeddings[members], np.float32), fewest, seed)
        if side is not None:
            parted[members[side]] = new
            new += 1
    return parted, new - count


def _side_of(points: Floats, fewest: int, seed: int) -> Side | None:
    """(m,) which points lie on one side of the gap; None where there is none."""
    m = len(points)
    if m <= _LOOKED_AT:
        conductance, side = least_cut(points, fewest)
        return side if conductance <= MOST_CONDUCTANCE else None
    looked = np.sort(np.random.default_rng(seed).choice(m, _LOOKED_AT, replace=False))
    conductance, side = least_cut(points[looked], max(_NEIGHBOURS, round(fewest * _LOOKED_AT / m)))
    if conductance > MOST_CONDUCTANCE:
        return None
    nearest, _ = Cells(points[looked], seed).nearest(points)
    return np.asarray(side[nearest], bool)


def least_cut(points: Floats, fewest: int) -> tuple[float, Side]:
    """The least conductance of a cut along the second eigenvector of the graph of the 10 nearest neighbours of (m, d)
    points, with at least `fewest` points on either side, and (m,) which points lie on one. 1.0 where none was found."""
    from scipy.sparse import coo_array, diags_array
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    m, k = len(points), min(_NEIGHBOURS, len(points) - 1)
    indices = nearest_neighbors(points, k + 1, single=True)[0][:, 1:]
    edges = coo_array((np.ones(m * k), (np.repeat(np.arange(m), k), indices.ravel())), (m, m)).tocsr()
    graph = edges.maximum(edges.T)
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    scale = diags_array(1 / np.sqrt(degrees))
    start = np.random.default_rng(0).normal(size=m)
    try:
        values, vectors = eigsh(scale @ graph @ scale, k=2, which="LA", v0=start, tol=1e-4)
    except ArpackNoConvergence:  # no gap is plain then, and the cluster stays whole
        return 1.0, np.zeros(m, bool)
    order = np.argsort(vectors[:, values.argmin()] / np.sqrt(degrees), kind="stable")
    crossing, volume = _along(graph[order][:, order].tocoo(), degrees[order])
    conductances = crossing / np.maximum(np.minimum(volume, volume[-1] - volume), 1)
    conductances[: fewest - 1] = conductances[max(m - fewest, 0) :] = 1.0
    last = int(conductances.argmin())
    side = np.zeros(m, bool)
    side[order[: last + 1]] = True
    return float(conductances[last]), side


def _along(graph: Any, degrees: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(m,) edges that cross the cut after each point, in their order, and the sum of the degrees before it."""
    to_earlier = np.bincount(graph.row[graph.col < graph.row], minlength=len(degrees))
    return np.cumsum(degrees - 2 * to_earlier), np.cumsum(degrees)
