"""Embeddings to clusters: reduce, HDBSCAN, merge its leaves, adopt near noise; a plain split without density.

HDBSCAN (Campello, Moulavi, Sander 2013) leaves most short texts as noise in 128 or more dimensions, so the vectors
are first reduced. Its leaves, pure but too many, are merged to the number of clusters that silhouettes favour (see
`clustering.merge`). Noise keeps the label -1: it is the absence of a cluster and nothing downstream may treat it as
one. Above `sample_points` points a random sample is clustered so, and every other point goes to the cluster of the
sampled point nearest to it: time and memory then grow with n alone.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cascade.errors import InputError
from clustering.merge import merge_leaves, silhouette, tried_numbers
from clustering.reduce import Reducer, flat_pca, lay_flat, nearest_neighbors, pca, quiet, reduce_points

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
_ADOPT_NEIGHBOURS = 5
_ADOPT_QUANTILE = 0.98  # a cluster's own range: how far away the neighbours of 98 % of its members are
_WARD_LIMIT = 4000  # above this many points Ward's n x n distances give way to k-means
_SILHOUETTE_POINTS = 2000
_SAMPLE_EPOCHS = 200  # of UMAP where a sample stands for more: its own choice for large data
_BLOCK = 4096  # rows whose similarities to the sample are held at once


class ClusterConfig(BaseModel):
    """How escalations are grouped. Sizes left None are chosen from the number of points."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reducer: Reducer = "umap"
    n_components: int = Field(default=10, ge=2, le=50)
    n_neighbors: int = Field(default=15, ge=2)
    min_cluster_size: int | None = Field(default=None, ge=2)
    """Smallest group of the sample that HDBSCAN looks for, before groups are merged."""
    min_samples: int | None = Field(default=None, ge=1)
    original_weight: float = Field(default=3.0, ge=0)
    """How much the silhouette in the original space counts beside the one in the reduced space."""
    merge_tolerance: float = Field(default=0.02, ge=0)
    """The finest cut is taken whose silhouettes come this near to the best."""
    adopt_noise: bool = True
    max_tail_share: float = Field(default=0.2, ge=0, le=1)
    """Largest share of the points that stays noise when noise is adopted; what is nearest to a cluster goes first."""
    max_noise_share: float = Field(default=0.5, ge=0, le=1)
    """More noise than this in HDBSCAN's leaves, and the points are split without it."""
    min_points: int = Field(default=300, ge=0)
    """Fewer points than this are split without HDBSCAN."""
    sample_points: int = Field(default=5000, ge=100)
    """Most points that are clustered themselves."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class PathTaken:
    """How the labels came about, for the report."""

    reduction: str
    """E.g. "umap to 5 dimensions, 15 neighbours"."""
    n_points: int
    n_sampled: int
    """Points that were clustered themselves; the others were assigned to the nearest of these."""
    min_cluster_size: int
    min_samples: int | None
    """None where HDBSCAN did not run."""
    n_leaves: int | None
    """HDBSCAN's groups before they were merged."""
    criterion: float | None
    """Silhouettes of the chosen cut."""
    noise_before: float | None
    """Share of the sample that HDBSCAN left as noise."""
    n_adopted: int
    noise_after: float
    fallback: str | None
    """Why the points were split without HDBSCAN; None when they were not."""


@dataclass(frozen=True, slots=True)
class Clustering:
    """Labels of n points; clusters are numbered 0..k-1 from the largest to the smallest."""

    labels: Labels
    """(n,) -1 is noise."""
    adopted: NDArray[np.bool_]
    """(n,) True where HDBSCAN said noise and the point was adopted by the cluster around it."""
    coords_2d: Floats
    """(n, 2) for the picture only."""
    method: str
    why: str
    """One sentence: why this method ran, for the report."""
    path: PathTaken | None = None

    @property
    def n_clusters(self) -> int:
        return int(self.labels.max(initial=-1)) + 1

    @property
    def noise_share(self) -> float:
        """Share of points left without a cluster; 0.0 of no points."""
        return float(np.mean(self.labels == -1)) if len(self.labels) else 0.0


def cluster_embeddings(embeddings: Floats, config: ClusterConfig | None = None) -> Clustering:
    """Cluster (n, d) L2-normalised embeddings, in memory or mapped from a file; one row per distinct text.

    Raises InputError when they have another shape or hold values that are not finite.
    """
    config = config or ClusterConfig()
    _check(embeddings)
    n = len(embeddings)
    if n <= config.sample_points:
        return _cluster_all(np.asarray(embeddings, np.float32), config)
    rows = np.sort(np.random.default_rng(config.seed).choice(n, config.sample_points, replace=False))
    sample = np.asarray(embeddings[rows], np.float32)
    return _extend(_cluster_all(sample, config, _SAMPLE_EPOCHS), sample, rows, embeddings, config)


def chosen_min_cluster_size(n: int) -> int:
    """Smallest group looked for among n points: 4, and a thousandth of them above 4,500."""
    return max(4, round(n / 1000))


def _check(embeddings: Floats) -> None:
    shape = np.shape(embeddings)
    blocks = (embeddings[i : i + 65_536] for i in range(0, shape[0] if shape else 0, 65_536))
    if len(shape) != 2 or not all(np.isfinite(block).all() for block in blocks):
        raise InputError(f"Embeddings must be a finite (n, d) array and have shape {shape}; embed the texts again.")


def _cluster_all(points: Floats, config: ClusterConfig, n_epochs: int | None = None) -> Clustering:
    n = len(points)
    least = max(config.min_points, 2 * _ADOPT_NEIGHBOURS)
    if n < least:
        return _split(points, config, f"{n} points are fewer than min_points = {least}, too few for density")
    near = nearest_neighbors(points, max(config.n_neighbors, _ADOPT_NEIGHBOURS + 1))
    few = near[0][:, : config.n_neighbors], near[1][:, : config.n_neighbors]
    reduced = reduce_points(points, config.reducer, config.n_components, few, config.seed, n_epochs)
    size = config.min_cluster_size or chosen_min_cluster_size(n)
    min_samples = config.min_samples or max(1, size // 4)
    leaves = _hdbscan(reduced, size, min_samples)
    noise, n_leaves = float(np.mean(leaves == -1)), int(leaves.max()) + 1
    if noise > config.max_noise_share or n_leaves < 2:
        found = f"HDBSCAN left {noise:.0%} of {n} points as noise in {n_leaves} clusters"
        return _split(points, config, f"{found} (max_noise_share = {config.max_noise_share:.0%})", noise)
    merged, criterion = merge_leaves(
        _nearest_leaf(reduced, leaves),
        leaves >= 0,
        reduced,
        points,
        original_weight=config.original_weight,
        tolerance=config.merge_tolerance,
        seed=config.seed,
    )
    stays = _tail(near[1], merged, leaves == -1, config)
    final = np.where(stays, -1, merged)
    adopted = (leaves == -1) & ~stays
    labels = _by_size(final)
    path = PathTaken(
        reduction=_reduction(config),
        n_points=n,
        n_sampled=n,
        min_cluster_size=size,
        min_samples=min_samples,
        n_leaves=n_leaves,
        criterion=round(criterion, 4),
        noise_before=noise,
        n_adopted=int(adopted.sum()),
        noise_after=float(np.mean(labels == -1)),
        fallback=None,
    )
    why = (
        f"HDBSCAN found {n_leaves} groups and left {noise:.0%} as noise; the groups were merged into"
        f" {labels.max() + 1} clusters, and {adopted.sum()} noise points were adopted by a near one"
    )
    coords = (
        lay_flat(reduced, config.n_neighbors, config.seed)
        if config.reducer == "umap"
        else flat_pca(reduced, config.seed)
    )
    return Clustering(labels, adopted, coords, f"{config.reducer}+hdbscan", why, path)


def _reduction(config: ClusterConfig) -> str:
    if config.reducer == "none":
        return "none"
    neighbours = f", {config.n_neighbors} neighbours" if config.reducer == "umap" else ""
    return f"{config.reducer} to {config.n_components} dimensions{neighbours}, seed {config.seed}"


def _hdbscan(reduced: Floats, size: int, min_samples: int) -> Labels:
    with quiet():
        import hdbscan

        model = hdbscan.HDBSCAN(
            min_cluster_size=size,
            min_samples=min_samples,
            cluster_selection_method="leaf",
            core_dist_n_jobs=1,
        )
        return np.asarray(model.fit_predict(reduced.astype(np.float64)), np.int64)


def _nearest_leaf(reduced: Floats, leaves: Labels) -> Labels:
    """Every point in a leaf: noise in the one that most of its nearest points of leaves belong to."""
    from sklearn.neighbors import NearestNeighbors

    inside, noise = np.flatnonzero(leaves >= 0), np.flatnonzero(leaves == -1)
    if not len(noise):
        return leaves
    index = NearestNeighbors(n_neighbors=min(_ADOPT_NEIGHBOURS, len(inside))).fit(reduced[inside])
    _, neighbours = index.kneighbors(reduced[noise])
    result = leaves.copy()
    result[noise] = [np.bincount(row).argmax() for row in leaves[inside][neighbours]]
    return result


def _tail(distances: Floats, labels: Labels, noise: NDArray[np.bool_], config: ClusterConfig) -> NDArray[np.bool_]:
    """(n,) which noise points stay noise, by the distances (n, k) to their nearest neighbours in the original space.

    A point is adopted when its neighbours are as near as those of its cluster's members are; of the others the nearest
    are, until no more than `max_tail_share` of all points is left.
    """
    if not config.adopt_noise or not noise.any():
        return noise
    own = distances[:, 1 : _ADOPT_NEIGHBOURS + 1].mean(axis=1)
    reach = np.array([_reach(own[~noise & (labels == c)]) for c in range(int(labels.max()) + 1)])
    ratios = own[noise] / np.maximum(reach[labels[noise]], 1e-12)
    stays = noise.copy()
    stays[noise] = ~_within_reach(ratios, round(config.max_tail_share * len(labels)))
    return stays


def _reach(distances: NDArray[np.floating[Any]]) -> float:
    return float(np.quantile(distances, _ADOPT_QUANTILE)) if len(distances) else 0.0


def _within_reach(ratios: NDArray[np.floating[Any]], most_left: int) -> NDArray[np.bool_]:
    """Which points are adopted, by their distance in units of the reach: all up to 1, and the nearest of the others
    until `most_left` are left."""
    taken = ratios <= 1
    left = int((~taken).sum())
    if left > most_left:
        taken[np.argsort(ratios, kind="stable")[: len(ratios) - most_left]] = True
    return np.asarray(taken, bool)


def _extend(found: Clustering, sample: Floats, rows: Labels, embeddings: Floats, config: ClusterConfig) -> Clustering:
    """The clustering of a sample, carried over to all n points, in blocks."""
    n = len(embeddings)
    core = np.flatnonzero(found.labels >= 0)
    if not len(core):
        return _all_noise(found, n)
    exemplars, owners = sample[core], found.labels[core]
    nearest, ratios = np.empty(n, np.int64), np.empty(n, np.float32)
    reach = _sample_reach(exemplars, owners)
    for start in range(0, n, _BLOCK):
        similarity = np.asarray(embeddings[start : start + _BLOCK], np.float32) @ exemplars.T
        best = similarity.argmax(axis=1)
        nearest[start : start + len(best)] = best
        distance = 1 - similarity[np.arange(len(best)), best]
        ratios[start : start + len(best)] = distance / reach[owners[best]]
    outside = np.ones(n, bool)
    outside[rows] = False
    most_left = round(config.max_tail_share * n) - int(np.sum(found.labels == -1))
    near = _within_reach(ratios[outside], max(0, most_left)) if config.adopt_noise else ratios[outside] <= 1
    labels, adopted = np.full(n, -1, np.int64), np.zeros(n, bool)
    labels[outside] = np.where(near, owners[nearest[outside]], -1)
    labels[rows], adopted[rows] = found.labels, found.adopted
    coords = found.coords_2d[core[nearest]]
    coords[rows] = found.coords_2d
    noise = float(np.mean(labels == -1))
    assert found.path is not None
    path = replace(found.path, n_points=n, noise_after=noise)
    why = f"{found.why}, of a sample of {len(rows)}; {int((labels[outside] >= 0).sum())} of the other {n - len(rows)}"
    return Clustering(
        _by_size(labels), adopted, coords, found.method, f"{why} points went to the nearest sampled one's cluster", path
    )


def _all_noise(found: Clustering, n: int) -> Clustering:
    assert found.path is not None
    path = replace(found.path, n_points=n, noise_after=1.0)
    nothing = np.zeros((n, 2), np.float32)
    return Clustering(np.full(n, -1, np.int64), np.zeros(n, bool), nothing, found.method, found.why, path)


def _sample_reach(exemplars: Floats, owners: Labels) -> NDArray[np.float64]:
    """(k,) cosine distance within which a new point belongs to each cluster: the 98 % quantile over its members of
    the distance to the nearest other member."""
    indices, distances = nearest_neighbors(exemplars, 2)
    same = owners[indices[:, 1]] == owners
    cosine = distances[:, 1] ** 2 / 2
    overall = float(np.quantile(cosine, _ADOPT_QUANTILE)) if len(cosine) else 0.0
    reach = np.full(int(owners.max(initial=-1)) + 1, overall)
    for cluster in np.unique(owners[same]):
        reach[cluster] = np.quantile(cosine[same & (owners == cluster)], _ADOPT_QUANTILE)
    return np.asarray(np.maximum(reach, 1e-6), np.float64)


def _split(points: Floats, config: ClusterConfig, reason: str, noise: float | None = None) -> Clustering:
    """Ward's tree (k-means when it would not fit) cut at the best mean silhouette; groups below the smallest
    cluster size become noise."""
    n = len(points)
    size = config.min_cluster_size or chosen_min_cluster_size(n)
    reduced = pca(points, 32, config.seed) if n > 1 else points
    method = "ward" if n <= _WARD_LIMIT else "kmeans"
    labels = _best_split(reduced, method, size, config.seed) if n >= 2 * size else np.zeros(n, np.int64)
    counts = np.bincount(labels, minlength=1)
    labels = np.where(counts[labels] < size, -1, labels) if n else labels
    coords = flat_pca(reduced, config.seed)
    found = len(np.unique(labels[labels >= 0]))
    why = f"{reason}; fell back to {method} with {found} clusters"
    path = PathTaken(
        reduction="pca to 32 dimensions",
        n_points=n,
        n_sampled=n,
        min_cluster_size=size,
        min_samples=None,
        n_leaves=None,
        criterion=None,
        noise_before=noise,
        n_adopted=0,
        noise_after=float(np.mean(labels == -1)) if n else 0.0,
        fallback=reason,
    )
    return Clustering(_by_size(labels), np.zeros(n, bool), coords, method, why, path)


def _best_split(points: Floats, method: str, size: int, seed: int) -> Labels:
    chosen = np.random.default_rng(seed).permutation(len(points))[:_SILHOUETTE_POINTS]
    candidates = [k for k in tried_numbers(max(2, len(points) // size)) if k < len(points)]
    best, best_score = np.zeros(len(points), np.int64), -math.inf
    for k in candidates:
        labels = _cut(points, method, k, seed)
        score = silhouette(points[chosen], labels[chosen])
        if score > best_score:
            best, best_score = labels, score
    return best


def _cut(points: Floats, method: str, k: int, seed: int) -> Labels:
    from sklearn.cluster import AgglomerativeClustering, KMeans
    from sklearn.exceptions import ConvergenceWarning

    model: Any = AgglomerativeClustering(k) if method == "ward" else KMeans(k, n_init=1, random_state=seed)
    with warnings.catch_warnings():
        # fewer distinct points than k: the silhouette prefers a smaller k anyway
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(model.fit_predict(points), np.int64)


def _by_size(labels: Labels) -> Labels:
    """Renumber clusters from the largest to the smallest (ties by first member); -1 stays."""
    names, first, counts = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    new = {int(names[old]): rank for rank, old in enumerate(order)}
    return np.array([new.get(int(label), -1) for label in labels], np.int64)
