"""A plain split where density says nothing: Ward's tree, k-means where it would not fit, cut at the best silhouette."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustering.merge import silhouette, tried_numbers

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
_WARD_LIMIT = 4000  # above this many points Ward's n x n distances give way to k-means
_SILHOUETTE_POINTS = 2000


def split_points(points: Floats, size: int, seed: int) -> tuple[Labels, str]:
    """(n,) labels of (n, d) points, and "ward" or "kmeans"; groups below `size` are noise, -1."""
    n = len(points)
    method = "ward" if n <= _WARD_LIMIT else "kmeans"
    labels = _best_split(points, method, size, seed) if n >= 2 * size else np.zeros(n, np.int64)
    counts = np.bincount(labels, minlength=1)
    return (np.where(counts[labels] < size, -1, labels) if n else labels), method


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
