"""Embeddings to clusters: reduce, HDBSCAN, adopt near noise; a plain split where density says nothing.

HDBSCAN (Campello, Moulavi, Sander 2013) leaves most short texts as noise in 128 or more dimensions, so
the vectors are first reduced by UMAP (McInnes, Healy, Melville 2018) or PCA. Noise keeps the label -1:
it is the absence of a cluster and nothing downstream may treat it as one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cascade.errors import InputError

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
_ADOPT_NEIGHBOURS = 5
_ADOPT_QUANTILE = 0.95  # a cluster's own range: how far apart 95 % of its members' neighbours are
_WARD_LIMIT = 4000  # above this many points Ward's n x n distances give way to k-means


class ClusterConfig(BaseModel):
    """How escalations are grouped. Sizes left None are chosen from the number of points."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reducer: Literal["umap", "pca", "none"] = "umap"
    n_components: int = Field(default=5, ge=2, le=50)
    n_neighbors: int = Field(default=15, ge=2)
    min_cluster_size: int | None = Field(default=None, ge=2)
    min_samples: int | None = Field(default=None, ge=1)
    adopt_noise: bool = True
    max_noise_share: float = Field(default=0.5, ge=0, le=1)
    min_points: int = Field(default=300, ge=0)
    seed: int = 0


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

    @property
    def n_clusters(self) -> int:
        return int(self.labels.max(initial=-1)) + 1

    @property
    def noise_share(self) -> float:
        """Share of points left without a cluster; 0.0 of no points."""
        return float(np.mean(self.labels == -1)) if len(self.labels) else 0.0


def cluster_embeddings(embeddings: Floats, config: ClusterConfig | None = None) -> Clustering:
    """Cluster (n, d) L2-normalised embeddings.

    Raises InputError when they have another shape or hold values that are not finite.
    """
    config = config or ClusterConfig()
    points = np.asarray(embeddings, np.float32)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise InputError(
            f"Embeddings must be a finite (n, d) array and have shape {points.shape}; embed the texts again."
        )
    if len(points) < config.min_points:
        why = f"{len(points)} points are fewer than min_points = {config.min_points}, too few for density"
        return _split(points, config, why)
    reduced = _reduce(points, config)
    labels = _hdbscan(reduced, config)
    noise = float(np.mean(labels == -1))
    if noise > config.max_noise_share or labels.max() < 1:
        found = f"HDBSCAN left {noise:.0%} of {len(points)} points as noise in {labels.max() + 1} clusters"
        return _split(points, config, f"{found} (max_noise_share = {config.max_noise_share:.0%})")
    final = _adopt(reduced, labels) if config.adopt_noise else labels
    adopted = (labels == -1) & (final >= 0)
    why = f"HDBSCAN left {noise:.0%} as noise, of which {adopted.sum()} points were adopted by a near cluster"
    return Clustering(_by_size(final), adopted, _picture(reduced, config), f"{config.reducer}+hdbscan", why)


def chosen_min_cluster_size(n: int) -> int:
    """Smallest cluster looked for among n points: sqrt(n) / 5, at least 5 (15 at 6,000 points)."""
    return max(5, round(math.sqrt(n) / 5))


def _hdbscan(reduced: Floats, config: ClusterConfig) -> Labels:
    with _quiet():
        import hdbscan

        size = config.min_cluster_size or chosen_min_cluster_size(len(reduced))
        model = hdbscan.HDBSCAN(
            min_cluster_size=size,
            min_samples=config.min_samples or max(1, size // 3),
            core_dist_n_jobs=1,
        )
        return np.asarray(model.fit_predict(reduced.astype(np.float64)), np.int64)


def _reduce(points: Floats, config: ClusterConfig) -> Floats:
    if config.reducer == "umap":
        return _umap(points, config)
    if config.reducer == "pca":
        return _unit(_pca(points, config.n_components, config.seed))
    return points


def _umap(points: Floats, config: ClusterConfig) -> Floats:
    indices, distances = _neighbors(points, config.n_neighbors)
    cosine = distances**2 / 2  # of unit vectors
    with _quiet():
        from umap import UMAP

        reducer = UMAP(
            n_components=config.n_components,
            n_neighbors=indices.shape[1],
            min_dist=0.0,
            metric="cosine",
            random_state=config.seed,
            n_jobs=1,
            init="pca" if min(points.shape) > config.n_components else "random",
            precomputed_knn=(indices, cosine, None),
        )
        return np.asarray(reducer.fit_transform(points), np.float32)


def _neighbors(points: Floats, k: int) -> tuple[Labels, Floats]:
    """(n, k) nearest neighbours and euclidean distances, each point its own first. Exact search: for tens of
    thousands of points it is done before UMAP has compiled its approximate one."""
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(points))
    method = "brute" if points.shape[1] > 20 else "kd_tree"
    distances, indices = NearestNeighbors(n_neighbors=k - 1, algorithm=method).fit(points).kneighbors()
    itself = np.arange(len(points))[:, None]
    return np.hstack([itself, indices]), np.hstack([np.zeros_like(itself), distances]).astype(np.float32)


def _pca(points: Floats, n_components: int, seed: int) -> Floats:
    from sklearn.decomposition import PCA

    n = min(n_components, *points.shape)
    return np.asarray(PCA(n, random_state=seed).fit_transform(points), np.float32)


def _unit(points: Floats) -> Floats:
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    return np.asarray(np.divide(points, lengths, out=np.zeros_like(points), where=lengths > 0), np.float32)


def _adopt(reduced: Floats, labels: Labels) -> Labels:
    """Give a noise point to the majority cluster of its k nearest clustered points, if it is as near to them
    as that cluster's members are to each other (their 95 % quantile)."""
    from sklearn.neighbors import NearestNeighbors

    inside, noise = np.flatnonzero(labels >= 0), np.flatnonzero(labels == -1)
    if not len(noise):
        return labels
    k = min(_ADOPT_NEIGHBOURS, len(inside) - 1)
    index = NearestNeighbors(n_neighbors=k).fit(reduced[inside])
    own, _ = index.kneighbors()  # without arguments a point is not its own neighbour
    own_mean = own.mean(axis=1)
    reach = {
        label: np.quantile(own_mean[labels[inside] == label], _ADOPT_QUANTILE) for label in np.unique(labels[inside])
    }
    distances, neighbours = index.kneighbors(reduced[noise])
    result = labels.copy()
    for point, distance, near in zip(noise, distances, labels[inside][neighbours], strict=True):
        winner = int(np.bincount(near).argmax())
        votes = near == winner
        if votes.sum() * 2 > k and distance[votes].mean() <= reach[winner]:
            result[point] = winner
    return result


def _split(points: Floats, config: ClusterConfig, reason: str) -> Clustering:
    """Ward's tree (k-means when it would not fit) cut at the best mean silhouette; groups below the smallest
    cluster size become noise."""
    n = len(points)
    size = config.min_cluster_size or chosen_min_cluster_size(n)
    reduced = _pca(points, 32, config.seed) if n > 1 else points
    method = "ward" if n <= _WARD_LIMIT else "kmeans"
    labels = _best_split(reduced, method, size, config.seed) if n >= 2 * size else np.zeros(n, np.int64)
    counts = np.bincount(labels, minlength=1)
    labels = np.where(counts[labels] < size, -1, labels) if n else labels
    coords = _flat(reduced, config.seed)
    found = len(np.unique(labels[labels >= 0]))
    why = f"{reason}; fell back to {method} with {found} clusters"
    return Clustering(_by_size(labels), np.zeros(n, bool), coords, method, why)


def _best_split(points: Floats, method: str, size: int, seed: int) -> Labels:
    from sklearn.metrics import silhouette_score

    top = max(2, len(points) // size)
    candidates = sorted({min(top, round(2 * 1.4**i)) for i in range(40)})
    candidates = [k for k in candidates if k < len(points)]
    best, best_score = np.zeros(len(points), np.int64), -math.inf
    for k in candidates:
        labels = _cut(points, method, k, seed)
        if len(np.unique(labels)) < 2:
            continue
        score = silhouette_score(points, labels, sample_size=min(len(points), 2000), random_state=seed)
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


def _picture(reduced: Floats, config: ClusterConfig) -> Floats:
    """The clusters' own space laid flat: a short UMAP of the reduced points, begun from their PCA."""
    flat = _flat(reduced, config.seed)
    if config.reducer != "umap" or len(reduced) <= config.n_neighbors:
        return flat
    indices, distances = _neighbors(reduced, config.n_neighbors)
    with _quiet():
        from umap import UMAP

        layout = UMAP(
            n_neighbors=config.n_neighbors,
            n_epochs=100,
            random_state=config.seed,
            n_jobs=1,
            init=(10 * flat / max(float(np.abs(flat).max()), 1e-9)).astype(np.float32),
            precomputed_knn=(indices, distances, None),
        )
        return np.asarray(layout.fit_transform(reduced), np.float32)


def _flat(points: Floats, seed: int) -> Floats:
    coords = np.zeros((len(points), 2), np.float32)
    if len(points) > 1:
        flat = _pca(points, 2, seed)
        coords[:, : flat.shape[1]] = flat
    return coords


@contextmanager
def _quiet() -> Iterator[None]:
    """Hush what umap, numba and hdbscan say about themselves; nothing of it concerns the user's data."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ImportWarning)  # optional tensorflow
        warnings.filterwarnings("ignore", category=SyntaxWarning)  # hdbscan's docstrings
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="umap")
        warnings.filterwarnings("ignore", module="numba")
        warnings.filterwarnings("ignore", module="sklearn")
        yield
