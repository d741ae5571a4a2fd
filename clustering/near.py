"""Nearest neighbours: exact among the points that are clustered, by cells among those that only join a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
Neighbours = tuple[Indices, Floats]
MANY_POINTS = 5000
"""Above so many points single precision has to do."""
_BLOCK = 1024  # rows whose products with all points are held at once
_SAME = 1e-6  # squared distance of unit vectors that single precision cannot tell from none
_FEW_FOR_CELLS = 2000  # fewer points than this are looked through whole
_PROBED_CELLS = 8
_ROUNDS = 3  # of k-means: cells need to be compact, not right


def nearest_neighbors(points: Floats, k: int, *, single: bool = False) -> Neighbours:
    """(n, k) nearest neighbours of (n, d) points and euclidean distances, each point its own first. Exact search: for
    tens of thousands of points it is done before UMAP has compiled its approximate one. `single` takes single
    precision for few points, too, which is faster."""
    k = min(k, len(points))
    if (single or len(points) > MANY_POINTS) and points.shape[1] > 20:
        return _by_products(points, k)
    from sklearn.neighbors import NearestNeighbors

    method = "brute" if points.shape[1] > 20 else "kd_tree"
    distances, indices = NearestNeighbors(n_neighbors=k - 1, algorithm=method).fit(points).kneighbors()
    itself = np.arange(len(points))[:, None]
    return np.hstack([itself, indices]), np.hstack([np.zeros_like(itself), distances]).astype(np.float32)


def _by_products(points: Floats, k: int) -> Neighbours:
    """The same in single precision, on all cores: |x - y|^2 = |x|^2 + |y|^2 - 2 x y, in blocks of 1,024 points."""
    import torch

    n = len(points)
    per_group = max(1, round((n / k) ** 0.5))  # so that a row's groups and the members looked at are about as many
    n_groups = -(-n // per_group)
    whole = torch.zeros(per_group * n_groups, points.shape[1])
    whole.numpy()[:n] = points
    squares = (whole * whole).sum(dim=1)
    squares[n:] = torch.inf  # what fills up the last groups is near to nothing
    indices, distances = np.empty((n, k), np.int64), np.zeros((n, k), np.float32)
    indices[:, 0] = np.arange(n)
    room = torch.empty(min(_BLOCK, n), len(whole))  # once: fresh memory for each block costs a sixth of the time
    for start in range(0, n, _BLOCK):
        part = whole[start : min(start + _BLOCK, n)]
        rows = torch.arange(len(part))
        apart = torch.addmm(squares, part, whole.T, alpha=-2, out=room[: len(part)])
        apart[rows, start + rows] = torch.inf
        least, nearest = _least(apart.view(len(part), per_group, n_groups), k - 1)
        squared = (least + squares[start : start + len(part), None]).numpy()
        indices[start : start + len(part), 1:] = nearest.numpy()
        distances[start : start + len(part), 1:] = np.sqrt(np.where(squared < _SAME, 0.0, squared))
    return indices, distances


def _least(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(rows, k) least of each row's values, ascending, and their columns. The values are (rows, per group, groups),
    column c in group c modulo groups: the k least are in the k groups with the least minima, the only ones sorted."""
    import torch

    rows, per_group, n_groups = values.shape
    groups = torch.topk(values.amin(dim=1), k, dim=1, largest=False, sorted=False).indices
    columns = (groups[:, None] + n_groups * torch.arange(per_group)[:, None]).view(rows, per_group * k)
    least, places = torch.topk(values.view(rows, -1).gather(1, columns), k, dim=1, largest=False)
    return least, columns.gather(1, places)


class Cells:
    """(m, d) unit vectors in about sqrt(m) cells of k-means, for the one nearest to a query.

    A query looks through the eight cells whose centres are nearest (the inverted file of Sivic and Zisserman 2003), so
    its cost grows with the root of m. Not exact: at a cell's border a neighbour a little farther away may be found.
    """

    def __init__(self, points: Floats, seed: int) -> None:
        count = round(len(points) ** 0.5) if len(points) >= _FEW_FOR_CELLS else 1
        centres = points[np.random.default_rng(seed).choice(len(points), count, replace=False)]
        for _ in range(_ROUNDS if count > 1 else 0):
            order, starts = _grouped(_nearest_centres(points, centres, 1)[:, 0], count)
            kept = starts[:-1] < starts[1:]
            sums = np.add.reduceat(points[order], starts[:-1][kept], axis=0)
            centres = np.asarray(sums / np.diff(starts)[kept, None], np.float32)
            count = len(centres)
        self._centres = centres
        self._order, self._starts = _grouped(_nearest_centres(points, centres, 1)[:, 0], count)
        self._points = points[self._order]

    def nearest(self, queries: Floats) -> tuple[Indices, Floats]:
        """(n,) which point is nearest to each of (n, d) unit vectors, of those looked at, and its cosine."""
        probed = _nearest_centres(queries, self._centres, min(_PROBED_CELLS, len(self._centres)))
        order, starts = _grouped(probed.ravel(), len(self._centres))
        rows = order // probed.shape[1]
        found, cosines = np.zeros(len(queries), np.int64), np.full(len(queries), -np.inf, np.float32)
        for cell, (first, last) in enumerate(zip(self._starts[:-1], self._starts[1:], strict=True)):
            asking = rows[starts[cell] : starts[cell + 1]]
            if first == last or not len(asking):
                continue
            products = queries[asking] @ self._points[first:last].T
            best = products.argmax(axis=1)
            highest = products[np.arange(len(best)), best]
            nearer = highest > cosines[asking]
            found[asking[nearer]] = self._order[first + best[nearer]]
            cosines[asking[nearer]] = highest[nearer]
        return found, cosines


def _nearest_centres(points: Floats, centres: Floats, k: int) -> Indices:
    """(n, k) the centres nearest to each point, in no order."""
    import torch

    squares = torch.from_numpy(np.einsum("ij,ij->i", centres, centres) / 2)
    apart = torch.addmm(squares, torch.from_numpy(points), torch.from_numpy(centres).T, alpha=-1)
    return np.asarray(torch.topk(apart, k, dim=1, largest=False, sorted=False).indices.numpy())


def _grouped(labels: Indices, count: int) -> tuple[Indices, Indices]:
    """The rows in the order of their labels 0..count-1, and where each label begins and the last ends, (count + 1,)."""
    order = np.argsort(labels, kind="stable")
    return order, np.searchsorted(labels[order], np.arange(count + 1))
