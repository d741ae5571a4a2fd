"""Embeddings to clusters: reduce, HDBSCAN, merge its leaves, adopt near noise; a plain split without density.

HDBSCAN (Campello, Moulavi, Sander 2013) leaves most short texts as noise in 128 or more dimensions, so the vectors
are first reduced. Its leaves, pure but too many, are merged to the number of clusters that is worth most, unless its
own cut is worth more (`clustering.merge`). Noise keeps the label -1: it is the absence of a cluster and nothing
downstream may treat it as one. Above `sample_points` points a random sample is clustered so, every other point
goes to the cluster of the sampled point nearest to it, and rare clusters are looked at once more with all their points
(`clustering.gaps`): time and memory then grow with n alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cascade.errors import InputError
from clustering.adopt import (
    NEIGHBOURS,
    nearest_exemplars,
    nearest_group,
    stays_noise,
    usual_distances,
    within_reach,
)
from clustering.gaps import part_at_gaps
from clustering.merge import Criterion, CutWeights, merge_leaves
from clustering.near import Neighbours, nearest_neighbors
from clustering.reduce import (
    Reducer,
    flat_pca,
    lay_flat,
    pca,
    quiet,
    reduce_points,
    umap_neighbors,
)
from clustering.split import split_points

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
_OWN_CUT_SIZES = (10, 20, 30)  # smallest cluster of HDBSCAN's own cuts: the denser the sample, the larger is right
_OWN_CUT_SAMPLES = 10  # neighbours that make a point dense in them
_MUTUAL_NEIGHBOURS = 30
_TIE = 0.001  # of worth: HDBSCAN's own cut is taken before a merging into more or fewer that is worth no more than that
_CLEAR_NOISE, _CLEAR_TIE = 0.02, 0.005  # so much more where it leaves next to no noise, and density alone tells apart


class ClusterConfig(BaseModel):
    """How escalations are grouped. Sizes left None are chosen from the number of points."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reducer: Reducer = "umap"
    n_components: int = Field(default=10, ge=2, le=50)
    n_neighbors: int | None = Field(default=None, ge=2)
    """Of UMAP's graph."""
    min_cluster_size: int | None = Field(default=None, ge=2)
    """Smallest group of the sample that HDBSCAN looks for, before groups are merged."""
    min_samples: int | None = Field(default=None, ge=1)
    chance_weight: float = Field(default=0.5, ge=0)
    """How much agreement by chance counts against a cut, beside its silhouette; the larger, the finer where few."""
    information_weight: float = Field(default=0.2, ge=0)
    """How much a bit counts that a point's cluster tells of its neighbour's."""
    doubt_weight: float = Field(default=0.7, ge=0)
    """How much a bit counts that it leaves open, beside one that it tells; the larger, the coarser. Of up to 2,000
    points: it grows with more (`clustering.merge.doubt_of`)."""
    adopt_noise: bool = True
    max_tail_share: float = Field(default=0.2, ge=0, le=1)
    """Largest share of the points that stays noise when noise is adopted; what is nearest to a cluster goes first."""
    max_noise_share: float = Field(default=0.5, ge=0, le=1)
    """More noise than this in HDBSCAN's leaves, and the points are split without it."""
    min_points: int = Field(default=300, ge=0)
    """Fewer points than this are split without HDBSCAN."""
    sample_points: int = Field(default=25_000, ge=100)
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
    """What the chosen cut was worth (`clustering.merge`)."""
    noise_before: float | None
    """Share of the sample that HDBSCAN left as noise."""
    n_adopted: int
    noise_after: float
    fallback: str | None
    """Why the points were split without HDBSCAN; None when they were not."""
    n_parted: int = 0
    """Rare clusters of the sample that all their points showed to be two (`clustering.gaps`)."""
    own_cut: bool = False
    """Whether one of HDBSCAN's own cuts was taken: worth more than any merging of its leaves, or level with it."""


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


def cluster_embeddings(embeddings: Floats, config: ClusterConfig | None = None, *, picture: bool = True) -> Clustering:
    """Cluster (n, d) L2-normalised embeddings, in memory or mapped from a file; one row per distinct text.

    Without `picture` UMAP does not lay the points flat, a tenth of the time: `coords_2d` are principal components then.
    Raises InputError when they have another shape or hold values that are not finite.
    """
    config = config or ClusterConfig()
    _check(embeddings)
    n = len(embeddings)
    if n <= config.sample_points:
        return _cluster_all(np.asarray(embeddings, np.float32), config, picture)
    rows = np.sort(np.random.default_rng(config.seed).choice(n, config.sample_points, replace=False))
    sample = np.asarray(embeddings[rows], np.float32)
    near = _neighbours(sample, config)
    return _extend(_cluster_all(sample, config, picture, near), sample, near, rows, embeddings, config)


def chosen_min_cluster_size(n: int) -> int:
    """Smallest group looked for among n points: 4, and a thousandth of them above 4,500."""
    return max(4, round(n / 1000))


def _check(embeddings: Floats) -> None:
    shape = np.shape(embeddings)
    blocks = (embeddings[i : i + 65_536] for i in range(0, shape[0] if shape else 0, 65_536))
    if len(shape) != 2 or not all(np.isfinite(block).all() for block in blocks):
        raise InputError(f"Embeddings must be a finite (n, d) array and have shape {shape}; embed the texts again.")


def _neighbours(points: Floats, config: ClusterConfig) -> Neighbours:
    return nearest_neighbors(points, 1 + max(_graph_size(len(points), config) - 1, NEIGHBOURS, _MUTUAL_NEIGHBOURS))


def _graph_size(n: int, config: ClusterConfig) -> int:
    return config.n_neighbors or umap_neighbors(n)


def _cluster_all(points: Floats, config: ClusterConfig, picture: bool, near: Neighbours | None = None) -> Clustering:
    n = len(points)
    least = max(config.min_points, 2 * NEIGHBOURS)
    if n < least:
        return _split(points, config, f"{n} points are fewer than min_points = {least}, too few for density")
    near = near or _neighbours(points, config)
    graph_size = _graph_size(n, config)
    few = near[0][:, :graph_size], near[1][:, :graph_size]
    reduced = reduce_points(points, config.reducer, config.n_components, few, config.seed)
    size = config.min_cluster_size or chosen_min_cluster_size(n)
    min_samples = config.min_samples or max(1, size // 4)
    leaves = _hdbscan(reduced, size, min_samples, "leaf")
    noise, n_leaves = float(np.mean(leaves == -1)), int(leaves.max()) + 1
    if noise > config.max_noise_share or n_leaves < 2:
        found = f"HDBSCAN left {noise:.0%} of {n} points as noise in {n_leaves} clusters"
        return _split(points, config, f"{found} (max_noise_share = {config.max_noise_share:.0%})", noise)
    merged, was_noise, criterion, own_cut = _best_cut(leaves, reduced, points, near[0], config)
    stays = stays_noise(near[1], merged, was_noise, config.max_tail_share) if config.adopt_noise else was_noise
    final = np.where(stays, -1, merged)
    adopted = was_noise & ~stays
    labels = _by_size(final)
    path = PathTaken(
        reduction=_reduction(config, graph_size),
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
        own_cut=own_cut,
    )
    how = "no merging of them was worth more than its own cut, with" if own_cut else "the groups were merged into"
    why = (
        f"HDBSCAN found {n_leaves} groups and left {noise:.0%} as noise; {how}"
        f" {labels.max() + 1} clusters, and {adopted.sum()} noise points were adopted by a near one"
    )
    flat = picture and config.reducer == "umap"
    coords = lay_flat(reduced, graph_size, config.seed) if flat else flat_pca(reduced, config.seed)
    return Clustering(labels, adopted, coords, f"{config.reducer}+hdbscan", why, path)


def _best_cut(
    leaves: Labels, reduced: Floats, points: Floats, neighbours: Labels, config: ClusterConfig
) -> tuple[Labels, NDArray[np.bool_], float, bool]:
    """Every point's cluster, which points were noise before, what the cut is worth, and whether HDBSCAN made it.

    Where clusters are dense but differ much in size, Ward's tree joins the small ones before the parts of a large one
    meet: there a cut by excess of mass is worth more, or about as much with another number of clusters.
    """
    weights = CutWeights(config.chance_weight, config.information_weight, config.doubt_weight, config.seed)
    groups = nearest_group(reduced, leaves)
    criterion = Criterion(points, neighbours[:, 1 : _MUTUAL_NEIGHBOURS + 1], weights)
    merged, value = merge_leaves(groups, leaves >= 0, reduced, criterion.of(groups))
    best = merged, leaves == -1, value, False
    samples = config.min_samples or _OWN_CUT_SAMPLES
    sizes = sorted({max(size, config.min_cluster_size or 0) for size in _OWN_CUT_SIZES})
    with TemporaryDirectory() as folder:
        cuts = [_hdbscan(reduced, size, samples, "eom", folder) for size in sizes]
    for own in cuts:
        if own.max() < 1:
            continue
        whole = nearest_group(reduced, own)
        value = criterion.of(whole)(np.arange(int(own.max()) + 1))
        tie = _CLEAR_TIE if np.mean(own == -1) < _CLEAR_NOISE else _TIE
        if value > best[2] - (0.0 if best[3] or own.max() == merged.max() else tie):
            best = whole, own == -1, value, True
    return best


def _reduction(config: ClusterConfig, graph_size: int) -> str:
    if config.reducer == "none":
        return "none"
    neighbours = f", {graph_size} neighbours" if config.reducer == "umap" else ""
    return f"{config.reducer} to {config.n_components} dimensions{neighbours}, seed {config.seed}"


def _hdbscan(
    reduced: Floats, size: int, min_samples: int, selection: Literal["leaf", "eom"], folder: str | None = None
) -> Labels:
    """HDBSCAN's labels. Its tree depends on `min_samples` alone, and cuts by other sizes find it in `folder` again."""
    kept: dict[str, Any] = {"memory": folder} if folder else {}
    with quiet():
        import hdbscan

        model = hdbscan.HDBSCAN(
            min_cluster_size=size,
            min_samples=min_samples,
            cluster_selection_method=selection,
            core_dist_n_jobs=1,
            **kept,
        )
        return np.asarray(model.fit_predict(reduced.astype(np.float64)), np.int64)


def _extend(
    found: Clustering, sample: Floats, near: Neighbours, rows: Labels, embeddings: Floats, config: ClusterConfig
) -> Clustering:
    """The clustering of a sample, carried over to all n points, in blocks."""
    n = len(embeddings)
    core = np.flatnonzero(found.labels >= 0)
    if not len(core):
        return _all_noise(found, n)
    owners = found.labels[core]
    usual = usual_distances(near, found.labels)
    others = np.setdiff1d(np.arange(n), rows, assume_unique=True)
    nearest, ratios = nearest_exemplars(embeddings, others, sample[core], owners, usual, config.seed)
    most_left = round(config.max_tail_share * n) - int(np.sum(found.labels == -1))
    taken = within_reach(ratios, max(0, most_left)) if config.adopt_noise else ratios <= 1
    labels, adopted = np.full(n, -1, np.int64), np.zeros(n, bool)
    labels[others] = np.where(taken, owners[nearest], -1)
    labels[rows], adopted[rows] = found.labels, found.adopted
    coords = np.empty((n, 2), np.float32)
    coords[others], coords[rows] = found.coords_2d[core[nearest]], found.coords_2d
    assert found.path is not None
    labels, parted = part_at_gaps(labels, embeddings, rows, found.path.min_cluster_size, config.seed)
    path = replace(found.path, n_points=n, noise_after=float(np.mean(labels == -1)), n_parted=parted)
    why = (
        f"{found.why}, of a sample of {len(rows)}; {int(taken.sum())} of the other {len(others)} points went to the"
        f" nearest sampled one's cluster, and all points showed {parted} rare clusters to be two"
    )
    return Clustering(_by_size(labels), adopted, coords, found.method, why, path)


def _all_noise(found: Clustering, n: int) -> Clustering:
    assert found.path is not None
    path = replace(found.path, n_points=n, noise_after=1.0)
    nothing = np.zeros((n, 2), np.float32)
    return Clustering(np.full(n, -1, np.int64), np.zeros(n, bool), nothing, found.method, found.why, path)


def _split(points: Floats, config: ClusterConfig, reason: str, noise: float | None = None) -> Clustering:
    n = len(points)
    size = config.min_cluster_size or chosen_min_cluster_size(n)
    reduced = pca(points, 32, config.seed) if n > 1 else points
    labels, method = split_points(reduced, size, config.seed)
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


def _by_size(labels: Labels) -> Labels:
    """Renumber clusters from the largest to the smallest (ties by first member); -1 stays."""
    names, first, counts = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    new = np.full(int(names.max(initial=-1)) + 2, -1, np.int64)  # the last is that of -1
    new[names[order]] = np.arange(len(names))
    return new[labels]
