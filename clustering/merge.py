"""How many clusters? Small groups are merged by Ward's criterion and the tree is cut where silhouettes say.

HDBSCAN's own cut of its tree depends on a smallest size that nobody knows: on short queries a size of 5 splits seven
intents into fifty clusters, and a size of 30 melts a hundred and fifty into thirty. Its leaves at a small size are
pure, though; merging them (Ward 1963, weighted by their members) gives one partition for every number of clusters.
The one is taken whose mean silhouette (Rousseeuw 1987) is best, in the reduced space, where clusters are clear, and
in the original one, which has not been made clear by the reduction.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
_SILHOUETTE_POINTS = 2000
_STEP = 1.1  # between one number of clusters that is tried and the next


def ward_merges(centres: Floats, weights: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The m - 1 merges of m weighted groups, cheapest first: (kept, merged into it). O(m^2) memory, O(m^3) time.

    The cost of a merge is the growth of the sum of squares, a b / (a + b) |x - y|^2 (Ward 1963).
    """
    centres, weights = centres.astype(np.float64), weights.astype(np.float64)
    m = len(centres)
    squares = ((centres[:, None] - centres[None]) ** 2).sum(-1)
    costs = squares * (weights[:, None] * weights[None] / (weights[:, None] + weights[None]))
    np.fill_diagonal(costs, np.inf)
    gone = np.zeros(m, bool)
    merges = []
    for _ in range(m - 1):
        one, two = sorted(divmod(int(costs.argmin()), m))
        merges.append((one, two))
        total = weights[one] + weights[two]
        centres[one] = (centres[one] * weights[one] + centres[two] * weights[two]) / total
        weights[one] = total
        gone[two] = True
        fresh = ((centres - centres[one]) ** 2).sum(1) * (weights * total / (weights + total))
        fresh[gone] = np.inf
        fresh[one] = np.inf
        costs[one], costs[:, one] = fresh, fresh
        costs[two], costs[:, two] = np.inf, np.inf
    return merges


def cut_merges(merges: list[tuple[int, int]], m: int, k: int) -> Labels:
    """(m,) cluster 0..k-1 of each group when the tree is cut into k."""
    labels = np.arange(m)
    for kept, merged in merges[: m - k]:
        labels[labels == merged] = kept
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def merge_leaves(
    leaves: Labels,
    core: NDArray[np.bool_],
    reduced: Floats,
    points: Floats,
    *,
    original_weight: float,
    tolerance: float,
    seed: int,
) -> tuple[Labels, float]:
    """(n,) merged labels of (n,) leaf labels 0..m-1, and the criterion's value.

    Leaves lie where their `core` members do; noise that was given to a leaf has a say in the silhouettes only. Of all
    cuts whose criterion, silhouette in `reduced` + `original_weight` x silhouette in `points`, comes within
    `tolerance` of the best, the finest is taken: two clusters of one kind cost less than two kinds in one.
    """
    m = int(leaves.max()) + 1
    counts = np.bincount(leaves[core], minlength=m)
    sums = np.zeros((m, reduced.shape[1]))
    np.add.at(sums, leaves[core], reduced[core])
    merges = ward_merges((sums / counts[:, None]).astype(np.float32), counts)
    rows = np.random.default_rng(seed).permutation(len(leaves))[:_SILHOUETTE_POINTS]
    groups = leaves[rows]
    spaces = [
        (1.0, group_distances(reduced[rows], groups, m)),
        (original_weight, group_distances(points[rows], groups, m)),
    ]
    scored = []
    for k in tried_numbers(m):
        cut = cut_merges(merges, m, k)
        value = sum(weight * silhouette_of_cut(sums, groups, cut) for weight, sums in spaces)
        scored.append((value, k, cut))
    best = max(value for value, _, _ in scored)
    value, _, cut = max((row for row in scored if row[0] >= best - tolerance), key=lambda row: row[1])
    return cut[leaves], value


def tried_numbers(most: int) -> list[int]:
    """Numbers of clusters to try, each a tenth above the one before, from 2 to `most`."""
    steps = math.ceil(math.log(max(most, 2) / 2) / math.log(_STEP)) + 1
    return sorted({min(most, max(2, round(2 * _STEP**i))) for i in range(steps + 1)})


def group_distances(points: Floats, groups: Labels, m: int) -> NDArray[np.float64]:
    """(n, m) sum of the euclidean distances from each of n points to the points of each of m groups."""
    squares = np.einsum("ij,ij->i", points, points)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * points @ points.T, 0.0)
    np.fill_diagonal(distances, 0.0)
    member = np.zeros((len(points), m))
    member[np.arange(len(points)), groups] = 1
    return np.asarray(np.sqrt(distances) @ member, np.float64)


def silhouette_of_cut(sums: NDArray[np.float64], groups: Labels, cut: Labels) -> float:
    """Mean silhouette (Rousseeuw 1987) when group g belongs to cluster cut[g], from `group_distances`; a cluster of
    one point counts 0. Costs n x m x k, where the distances themselves would cost n x n each time."""
    k = int(cut.max()) + 1
    merged = np.zeros((len(cut), k))
    merged[np.arange(len(cut)), cut] = 1
    labels = cut[groups]
    counts = np.bincount(labels, minlength=k)
    if (counts > 0).sum() < 2:
        return -1.0
    means = sums @ merged / np.maximum(counts, 1)
    rows = np.arange(len(labels))
    within = means[rows, labels] * counts[labels] / np.maximum(counts[labels] - 1, 1)
    means[:, counts == 0] = np.inf
    means[rows, labels] = np.inf
    nearest = means.min(axis=1)
    widest = np.maximum(np.maximum(within, nearest), 1e-12)
    return float(np.mean(np.where(counts[labels] > 1, (nearest - within) / widest, 0.0)))


def silhouette(points: Floats, labels: Labels) -> float:
    """Mean silhouette of (n, d) points, -1..1; -1 when there are not 2 to n - 1 clusters."""
    from sklearn.metrics import silhouette_score

    found = len(np.unique(labels))
    return float(silhouette_score(points, labels)) if 2 <= found < len(labels) else -1.0
