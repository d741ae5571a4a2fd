"""How many clusters? Small groups are merged by Ward's criterion and the tree is cut where three measures agree.

HDBSCAN's own cut of its tree depends on a smallest size that nobody knows: on short queries a size of 5 splits seven
intents into fifty clusters, and a size of 30 melts a hundred and fifty into thirty. Its leaves at a small size are
pure, though; merging them (Ward 1963, weighted by their members) gives one partition for every number of clusters.
Three things are measured of each, in the original space, which no reduction has made clear:

    silhouette    mean of (b - a) / max(a, b) (Rousseeuw 1987): best where clusters are many, and too coarse where few,
                  for a wide group beside a near one is as good as one cluster
    chance        sum of squared shares: how often two neighbours are of one cluster by chance; it falls fast while
                  clusters are few, and hardly at all where they are many (modularity, Newman and Girvan 2004)
    information   bits that a point's cluster tells of its mutual neighbour's, less a part of the bits it does not tell:
                  merging two clusters between which neighbours are many costs little information and saves much doubt

The more points there are, the nearer are a point's 30 nearest, and the fewer of them lie across any border, also one
that cuts a cluster in two. So what a cut leaves open weighs more then (`doubt_of`): otherwise 10,000 queries of seven
intents would become over a hundred clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Worth = Callable[[Labels], float]
_SILHOUETTE_POINTS = 2000
_STEP = 1.1  # between one number of clusters that is tried and the next
_FEW_POINTS = 2000  # up to so many, a bit that is left open has its plain weight
_GROWTH = 2 / 3  # of the weight with the number of points
_USUAL_BITS = 0.2  # left open by a good cut, too


@dataclass(frozen=True, slots=True)
class CutWeights:
    """How much each measure of a cut counts beside the silhouette."""

    chance: float
    information: float
    doubt: float
    """Of a bit that a cluster leaves open about a neighbour, beside a bit it tells, among up to 2,000 points."""
    seed: int = 0


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


class Criterion:
    """What cuts of partitions of the same points are worth.

    `points` (n, d) lie in the original space, and `neighbours` (n, k) are the nearest of each in it. What does not
    depend on the partition is found once.
    """

    def __init__(self, points: Floats, neighbours: Labels, weights: CutWeights) -> None:
        self._rows = np.random.default_rng(weights.seed).permutation(len(points))[:_SILHOUETTE_POINTS]
        self._weights = weights
        self._distances = distances_between(points[self._rows])
        self._mutual = mutual_neighbours(neighbours)
        self._n = len(points)

    def of(self, groups: Labels) -> Worth:
        """What a cut is worth when group g of (n,) `groups`, 0..m-1, belongs to cluster cut[g]. Costs a matrix product
        of 2,000 x m x k per cut."""
        m, own = int(groups.max()) + 1, groups[self._rows]
        sums, pairs = group_distances(self._distances, own, m), mutual_pairs(self._mutual, groups, m)
        shares, weights = np.bincount(groups, minlength=m) / len(groups), self._weights

        def value(cut: Labels) -> float:
            known, unknown = neighbour_bits(pairs, cut)
            chance = float((np.bincount(cut, shares) ** 2).sum())
            information = known - weights.doubt * doubt_of(unknown, self._n)
            return silhouette_of_cut(sums, own, cut) - weights.chance * chance + weights.information * information

        return value


def merge_leaves(leaves: Labels, core: NDArray[np.bool_], reduced: Floats, worth: Worth) -> tuple[Labels, float]:
    """(n,) merged labels of (n,) leaf labels 0..m-1, and what they are worth by the criterion of the same leaves.

    Leaves lie where their `core` members do in `reduced`; noise that was given to a leaf has a say in the criterion
    only.
    """
    m = int(leaves.max()) + 1
    counts = np.bincount(leaves[core], minlength=m)
    sums = np.zeros((m, reduced.shape[1]))
    np.add.at(sums, leaves[core], reduced[core])
    merges = ward_merges((sums / counts[:, None]).astype(np.float32), counts)
    cuts = [cut_merges(merges, m, k) for k in tried_numbers(m)]
    values = [worth(cut) for cut in cuts]
    best = int(np.argmax(values))
    return cuts[best][leaves], values[best]


def mutual_neighbours(neighbours: Labels) -> tuple[Labels, Labels]:
    """Both points of each pair of which each is among the other's (n, k) `neighbours`, in both orders."""
    n, k = neighbours.shape
    ones, others = np.repeat(np.arange(n, dtype=np.int64), k), neighbours.ravel().astype(np.int64)
    mutual = np.isin(ones * n + others, others * n + ones, assume_unique=True) & (ones != others)
    return ones[mutual], others[mutual]


def mutual_pairs(mutual: tuple[Labels, Labels], groups: Labels, m: int) -> NDArray[np.float64]:
    """(m, m) share of the pairs of `mutual_neighbours` that lie between each two groups; 0 without any."""
    ones, others = mutual
    pairs = np.bincount(groups[ones] * m + groups[others], minlength=m * m).reshape(m, m)
    return np.asarray(pairs / max(int(pairs.sum()), 1), np.float64)


def neighbour_bits(pairs: NDArray[np.float64], cut: Labels) -> tuple[float, float]:
    """What the cluster of a point tells of the cluster of its mutual neighbour (mutual information), and what it leaves
    open (conditional entropy), in bits, when group g of `mutual_pairs` belongs to cluster cut[g]."""
    k = int(cut.max()) + 1
    merged = np.zeros((len(cut), k))
    merged[np.arange(len(cut)), cut] = 1
    joint = merged.T @ pairs @ merged
    alone, both = _entropy(joint.sum(axis=1)), _entropy(joint)
    return 2 * alone - both, both - alone


def doubt_of(unknown: float, n: int) -> float:
    """How many bits the `unknown` ones count for that a cut leaves open about neighbours among n points.

    Above 2,000 points each beyond the first 0.2 counts (n / 2,000)^(2/3): the more points a cluster has, the fewer bits
    it costs to cut it in two. The first are of noise and borders, which good cuts leave open, too.
    """
    beyond = max(0.0, unknown - _USUAL_BITS)
    return unknown + (math.pow(max(1.0, n / _FEW_POINTS), _GROWTH) - 1) * beyond


def _entropy(shares: NDArray[np.float64]) -> float:
    present = shares[shares > 0]
    return float(-(present * np.log2(present)).sum())


def tried_numbers(most: int) -> list[int]:
    """Numbers of clusters to try, each a tenth above the one before, from 2 to `most`."""
    steps = math.ceil(math.log(max(most, 2) / 2) / math.log(_STEP)) + 1
    return sorted({min(most, max(2, round(2 * _STEP**i))) for i in range(steps + 1)})


def distances_between(points: Floats) -> Floats:
    """(n, n) euclidean distances between n points."""
    squares = np.einsum("ij,ij->i", points, points)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * points @ points.T, 0.0)
    np.fill_diagonal(distances, 0.0)
    return np.asarray(np.sqrt(distances), np.float32)


def group_distances(distances: Floats, groups: Labels, m: int) -> NDArray[np.float64]:
    """(n, m) sum of the (n, n) distances from each of n points to the points of each of m groups."""
    member = np.zeros((len(groups), m))
    member[np.arange(len(groups)), groups] = 1
    return np.asarray(distances @ member, np.float64)


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
