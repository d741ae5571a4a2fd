"""Fewer dimensions before density: UMAP (McInnes, Healy, Melville 2018) or PCA, and the flat picture of the result."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clustering.near import MANY_POINTS, Neighbours, nearest_neighbors

Floats = NDArray[np.float32]
Reducer = Literal["umap", "pca", "none"]
_FLAT_POINTS = 5000
_LARGE_POINTS = 12_500
_NEGATIVES = 5
_BESIDE = 0.01  # of the picture's spread: points that share a place would hide one another


def reduce_points(points: Floats, reducer: Reducer, n_components: int, near: Neighbours, seed: int) -> Floats:
    """(n, d) unit vectors to (n, n_components), or as they are for "none".

    `near` are the points' nearest neighbours (n, k) and their distances, each point its own first; k is UMAP's number
    of neighbours.
    """
    if reducer == "umap":
        return _umap(points, n_components, near, seed)
    if reducer == "pca":
        return unit_rows(pca(points, n_components, seed))
    return points


def pca(points: Floats, n_components: int, seed: int) -> Floats:
    """Principal components; fewer where the points have fewer dimensions."""
    from sklearn.decomposition import PCA

    n = min(n_components, *points.shape)
    with np.errstate(invalid="ignore"):  # points that are all equal explain none of no variance
        return np.asarray(PCA(n, random_state=seed).fit_transform(points), np.float32)


def unit_rows(points: Floats) -> Floats:
    """Rows of length 1; zero rows stay."""
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    return np.asarray(np.divide(points, lengths, out=np.zeros_like(points), where=lengths > 0), np.float32)


def lay_flat(reduced: Floats, n_neighbors: int, seed: int) -> Floats:
    """The reduced points' own space laid flat for a picture: a short UMAP, begun from their PCA. Of more than 5,000
    points a random 5,000; every other lies where the nearest of these does, a little beside."""
    flat = flat_pca(reduced, seed)
    if len(reduced) <= n_neighbors:
        return flat
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(reduced))[:_FLAT_POINTS])
    laid = _umap_flat(reduced[rows], flat[rows], n_neighbors, seed)
    if len(rows) == len(reduced):
        return laid
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=1).fit(reduced[rows]).kneighbors(reduced, return_distance=False)[:, 0]
    beside = rng.normal(scale=_BESIDE * float(laid.std()), size=laid[nearest].shape)
    beside[rows] = 0
    return np.asarray(laid[nearest] + beside, np.float32)


def _umap_flat(reduced: Floats, begin: Floats, n_neighbors: int, seed: int) -> Floats:
    indices, distances = nearest_neighbors(reduced, n_neighbors)
    with quiet():
        from umap import UMAP

        layout = UMAP(
            n_neighbors=n_neighbors,
            n_epochs=100,
            random_state=seed,
            n_jobs=1,
            init=(10 * begin / max(float(np.abs(begin).max()), 1e-9)).astype(np.float32),
            precomputed_knn=(indices, distances, None),
        )
        return np.asarray(layout.fit_transform(reduced), np.float32)


def flat_pca(points: Floats, seed: int) -> Floats:
    """(n, 2) first two principal components, zeros where there are none."""
    coords = np.zeros((len(points), 2), np.float32)
    if len(points) > 1:
        flat = pca(points, 2, seed)
        coords[:, : flat.shape[1]] = flat
    return coords


def umap_epochs(n: int) -> int | None:
    """For n points, None for UMAP's own choice (500): 200 from 5,001 on, which it takes for large data, and 60 above
    12,500, where the layout would take most of the time."""
    if n > _LARGE_POINTS:
        return 60
    return 200 if n > MANY_POINTS else None


def umap_neighbors(n: int) -> int:
    """For n points: 15, and 10 above 12,500. What is rare among many has few members in a sample: with fewer neighbours
    its graph holds together and to itself, and the layout is a third cheaper."""
    return 10 if n > _LARGE_POINTS else 15


def umap_negatives(n: int) -> int:
    """Points that an edge's end is pushed away from per epoch, for n points: 5, UMAP's own choice, and 3 above 12,500,
    each pushing 5 / 3 times as strongly: the same repulsion in seven tenths of the time."""
    return 3 if n > _LARGE_POINTS else _NEGATIVES


def _umap(points: Floats, n_components: int, near: Neighbours, seed: int) -> Floats:
    indices, distances = near
    negatives = umap_negatives(len(points))
    cosine = distances**2 / 2  # of unit vectors
    with quiet():
        from umap import UMAP

        reducer = UMAP(
            n_components=n_components,
            n_neighbors=indices.shape[1],
            n_epochs=umap_epochs(len(points)),
            negative_sample_rate=negatives,
            repulsion_strength=_NEGATIVES / negatives,
            min_dist=0.0,
            metric="cosine",
            random_state=seed,
            n_jobs=1,
            init="pca" if min(points.shape) > n_components else "random",
            precomputed_knn=(indices, cosine, None),
        )
        return np.asarray(reducer.fit_transform(points), np.float32)


@contextmanager
def quiet() -> Iterator[None]:
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
