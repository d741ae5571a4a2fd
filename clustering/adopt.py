"""Which points a cluster takes in: noise beside it, and points that were not clustered themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustering.near import Cells, Neighbours

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
NEIGHBOURS = 5
_SLACK = 1.25  # beyond what is usual in a sample; without it 2 % of a cluster's own kind would stay outside
_QUANTILE = 0.98  # a cluster's own range: how far away the neighbours of 98 % of its members are
_BLOCK = 32_768  # rows of the points, which may lie in a file, that are held at once


def nearest_group(reduced: Floats, labels: Labels) -> Labels:
    """Every point in a group: noise in the one that most of its nearest points of groups belong to."""
    from sklearn.neighbors import NearestNeighbors

    inside, noise = np.flatnonzero(labels >= 0), np.flatnonzero(labels == -1)
    if not len(noise):
        return labels
    index = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(inside))).fit(reduced[inside])
    _, neighbours = index.kneighbors(reduced[noise])
    result = labels.copy()
    result[noise] = [np.bincount(row).argmax() for row in labels[inside][neighbours]]
    return result


def stays_noise(
    distances: Floats, labels: Labels, noise: NDArray[np.bool_], max_tail_share: float
) -> NDArray[np.bool_]:
    """(n,) which noise points stay noise, by the (n, k) distances to the nearest neighbours, each point its own first.

    A point is adopted when its neighbours are as near as those of its cluster's members are; of the others the nearest
    are, until no more than `max_tail_share` of all points is left.
    """
    if not noise.any():
        return noise
    own = distances[:, 1 : NEIGHBOURS + 1].mean(axis=1)
    reach = np.array([_reach(own[~noise & (labels == c)]) for c in range(int(labels.max()) + 1)])
    ratios = own[noise] / np.maximum(reach[labels[noise]], 1e-12)
    stays = noise.copy()
    stays[noise] = ~within_reach(ratios, round(max_tail_share * len(labels)))
    return stays


def within_reach(ratios: NDArray[np.floating[Any]], most_left: int) -> NDArray[np.bool_]:
    """Which points are adopted, by their distance in units of the reach: all up to 1, and the nearest of the others
    until `most_left` are left."""
    taken = ratios <= 1
    left = int((~taken).sum())
    if left > most_left:
        taken[np.argsort(ratios, kind="stable")[: len(ratios) - most_left]] = True
    return np.asarray(taken, bool)


def nearest_exemplars(
    embeddings: Floats, rows: Labels, exemplars: Floats, owners: Labels, usual: NDArray[np.float64], seed: int
) -> tuple[Labels, Floats]:
    """(m,) the exemplar nearest to each of m rows of the embeddings and the cosine distance to it, in units of what is
    usual inside the cluster that owns it. `owners` (e,) are the clusters of the (e, d) exemplars, `usual` (k,) is of
    `usual_distances`. In blocks of 32,768 rows."""
    cells = Cells(exemplars, seed)
    nearest, ratios = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _BLOCK):
        best, cosines = cells.nearest(np.asarray(embeddings[rows[start : start + _BLOCK]], np.float32))
        nearest[start : start + len(best)] = best
        ratios[start : start + len(best)] = (1 - cosines) / usual[owners[best]]
    return nearest, ratios


def usual_distances(near: Neighbours, labels: Labels) -> NDArray[np.float64]:
    """(k,) cosine distance within which a new point belongs to each cluster: 1.25 times the 98 % quantile over its
    members of the distance to the nearest point that is no noise, where that is of the same cluster.

    `near` are the neighbours of n unit vectors, each its own first, and their distances; `labels` (n,).
    """
    indices, distances = near
    core = labels >= 0
    others = labels[indices[core, 1:]]
    first = (others >= 0).argmax(axis=1)
    rows = np.arange(len(others))
    owners, cosine = labels[core], distances[core, 1:][rows, first] ** 2 / 2
    same = others[rows, first] == owners
    usual = np.full(int(owners.max(initial=-1)) + 1, _reach(cosine))
    for cluster in np.unique(owners[same]):
        usual[cluster] = _reach(cosine[same & (owners == cluster)])
    return np.asarray(np.maximum(_SLACK * usual, 1e-6), np.float64)


def _reach(distances: NDArray[np.floating[Any]]) -> float:
    return float(np.quantile(distances, _QUANTILE)) if len(distances) else 0.0
