from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from cascade.errors import InputError
from clustering.cluster import ClusterConfig, chosen_min_cluster_size, cluster_embeddings
from clustering.embed import EmbedConfig, embed_texts
from clustering.near import nearest_neighbors
from clustering.reduce import reduce_points, umap_epochs, umap_negatives, umap_neighbors

SHARED = Path(__file__).resolve().parents[2] / "shared"
CLINC, POTION = SHARED / "datasets" / "clinc150" / "data_full.json", SHARED / "models" / "potion-base-4m"


def blobs(sizes, spread=0.05, d=32, n_noise=0, seed=0):
    """Tight groups of unit vectors, then scattered noise."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(d, d)))[0]
    parts = [centres[i] + spread * rng.normal(size=(n, d)) for i, n in enumerate(sizes)]
    points = np.vstack([*parts, rng.normal(size=(n_noise, d))])
    truth = np.concatenate([np.full(n, i) for i, n in enumerate(sizes)] + [np.full(n_noise, -1)])
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32), truth


@pytest.mark.parametrize("reducer", ["umap", "pca", "none"])
def test_finds_clear_groups_and_numbers_them_by_size(reducer):
    points, truth = blobs([60, 150, 120])
    result = cluster_embeddings(points, ClusterConfig(reducer=reducer, min_cluster_size=20))
    assert result.method == f"{reducer}+hdbscan"
    kept = result.labels >= 0
    assert kept.mean() > 0.9
    assert adjusted_rand_score(truth[kept], result.labels[kept]) > 0.97
    assert np.array_equal(np.bincount(result.labels[kept]), sorted(np.bincount(result.labels[kept]))[::-1])
    assert result.coords_2d.shape == (330, 2)
    assert np.isfinite(result.coords_2d).all()


def test_same_seed_same_clustering():
    points, _ = blobs([100, 120, 130], spread=0.12)
    one, two = cluster_embeddings(points), cluster_embeddings(points)
    assert np.array_equal(one.labels, two.labels)
    assert np.array_equal(one.coords_2d, two.coords_2d)


def test_labels_alone_are_the_same_without_the_picture():
    points, _ = blobs([100, 120, 130], spread=0.12)
    drawn, plain = cluster_embeddings(points), cluster_embeddings(points, picture=False)
    assert np.array_equal(drawn.labels, plain.labels)
    assert plain.coords_2d.shape == (350, 2) and np.isfinite(plain.coords_2d).all()
    assert not np.allclose(drawn.coords_2d, plain.coords_2d)


def test_near_noise_is_adopted_and_far_noise_is_not():
    points, truth = blobs([120, 120, 120], spread=0.25, n_noise=40, d=8)
    strict = cluster_embeddings(points, ClusterConfig(reducer="none", min_samples=15, adopt_noise=False))
    adopting = cluster_embeddings(points, ClusterConfig(reducer="none", min_samples=15))
    assert strict.adopted.sum() == 0
    assert adopting.adopted.sum() > 0
    assert np.all(strict.labels[adopting.adopted] == -1)
    assert np.all(adopting.labels[adopting.adopted] >= 0)
    untouched = ~adopting.adopted
    assert adjusted_rand_score(strict.labels[untouched], adopting.labels[untouched]) == 1.0
    assert np.mean(adopting.labels[truth == -1] == -1) > 0.5
    assert adopting.noise_share == np.mean(adopting.labels == -1)


def test_few_points_fall_back_to_ward_and_say_so():
    points, truth = blobs([30, 40, 50])
    result = cluster_embeddings(points)
    assert result.method == "ward"
    assert "fewer than min_points = 300" in result.why
    assert adjusted_rand_score(truth, result.labels) > 0.95


def test_too_much_noise_falls_back_and_says_so():
    points, _ = blobs([20, 20], n_noise=360)
    result = cluster_embeddings(points, ClusterConfig(reducer="none", min_cluster_size=15))
    assert result.method == "ward"
    assert "as noise" in result.why
    assert "max_noise_share = 50%" in result.why


def test_many_points_without_density_fall_back_to_kmeans():
    points, _ = blobs([], n_noise=4100, d=6)
    result = cluster_embeddings(points, ClusterConfig(reducer="none", max_noise_share=0.0, min_cluster_size=400))
    assert result.method == "kmeans"
    assert result.n_clusters >= 2


def test_groups_below_the_smallest_size_are_noise_in_the_fall_back_too():
    points, truth = blobs([40, 40, 2])
    result = cluster_embeddings(points)
    assert result.n_clusters == 2
    assert np.all(result.labels[truth == 2] == -1)


@pytest.mark.parametrize("n", [0, 1, 2, 5, 11])
def test_hardly_any_points(n):
    points, _ = blobs([n]) if n else (np.empty((0, 8), np.float32), None)
    result = cluster_embeddings(points)
    assert result.labels.shape == (n,)
    assert result.coords_2d.shape == (n, 2)
    assert result.n_clusters <= 1 or n >= 10


def test_equal_points_do_not_break_it():
    points = np.repeat(blobs([1, 1, 1])[0], 150, axis=0)
    result = cluster_embeddings(points)
    assert adjusted_rand_score(np.repeat([0, 1, 2], 150), result.labels) > 0.8


def test_bad_embeddings_are_refused():
    with pytest.raises(InputError, match="shape"):
        cluster_embeddings(np.zeros(5, np.float32))
    with pytest.raises(InputError, match="finite"):
        cluster_embeddings(np.full((400, 3), np.nan, np.float32))


def test_smallest_cluster_grows_with_the_data():
    assert [chosen_min_cluster_size(n) for n in (10, 300, 6000, 40_000)] == [4, 4, 6, 40]


@pytest.mark.skipif(not (CLINC.is_file() and POTION.is_dir()), reason="CLINC150 or the embedder is not there")
def test_real_intents_are_found_again():
    rows = [row for row in json.loads(CLINC.read_text())["train"] if hash_of(row[1]) % 5 == 0]
    picked = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:1000]]
    vectors = embed_texts([text for text, _ in picked], EmbedConfig(model=str(POTION)), progress=False)
    result = cluster_embeddings(vectors)
    alone = np.where(result.labels < 0, 10_000 + np.arange(1000), result.labels)
    assert result.method == "umap+hdbscan"
    assert result.noise_share < 0.3
    assert adjusted_rand_score([intent for _, intent in picked], alone) > 0.5


def hash_of(name):
    return sum(name.encode())


def test_above_the_sample_every_point_goes_to_its_own_group():
    points, truth = blobs([500, 400, 300], spread=0.1, n_noise=0)
    shuffled = np.random.default_rng(0).permutation(len(points))
    points, truth = points[shuffled], truth[shuffled]
    config = ClusterConfig(reducer="pca", sample_points=400, min_cluster_size=20)
    result = cluster_embeddings(points, config)
    assert (result.path.n_points, result.path.n_sampled) == (1200, 400)
    assert "of a sample of 400" in result.why
    alone = np.where(result.labels < 0, 10_000 + np.arange(1200), result.labels)
    assert adjusted_rand_score(truth, alone) > 0.95
    assert np.isfinite(result.coords_2d).all() and result.coords_2d.shape == (1200, 2)


def test_mapped_embeddings_cluster_like_those_in_memory(tmp_path):
    points, _ = blobs([500, 400, 300], spread=0.1)
    np.save(tmp_path / "points.npy", points)
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    config = ClusterConfig(reducer="pca", sample_points=400, min_cluster_size=20)
    assert np.array_equal(cluster_embeddings(mapped, config).labels, cluster_embeddings(points, config).labels)


def test_the_tail_of_noise_is_capped():
    points, _ = blobs([120, 120, 120], spread=0.2, n_noise=150, d=6)
    config = ClusterConfig(reducer="none", min_samples=15, min_cluster_size=15, max_tail_share=1, max_noise_share=1)
    free = cluster_embeddings(points, config)
    capped = cluster_embeddings(points, config.model_copy(update={"max_tail_share": 0.02}))
    assert free.noise_share > 0.02, "the cap has something to do"
    assert capped.noise_share <= 0.02
    assert np.all(capped.labels[free.labels >= 0] >= 0), "the cap adopts more, and lets go of none"


def test_the_path_says_what_was_done():
    points, _ = blobs([150, 150, 150], spread=0.1)
    path = cluster_embeddings(points, ClusterConfig(reducer="pca", n_components=8, min_cluster_size=10, seed=3)).path
    assert path.reduction == "pca to 8 dimensions, seed 3"
    assert path.fallback is None
    assert path.n_leaves >= 3
    assert 0 <= path.noise_after <= path.noise_before < 1
    few = cluster_embeddings(points[:50]).path
    assert "min_points" in few.fallback
    assert few.n_leaves is None


def test_hdbscans_own_cut_is_taken_where_sizes_differ_much_and_said(monkeypatch):
    points, truth = blobs([400] + [15] * 20, spread=0.1, d=24)
    result = cluster_embeddings(points, ClusterConfig(reducer="none"))
    assert result.path.own_cut
    assert "no merging of them was worth more than its own cut" in result.why
    assert adjusted_rand_score(truth, result.labels) == 1.0
    monkeypatch.setattr("clustering.cluster._TIE", -1.0)
    clear = cluster_embeddings(points, ClusterConfig(reducer="none"))
    assert clear.path.own_cut, "it leaves next to no noise, for which there is a tie of its own"
    monkeypatch.setattr("clustering.cluster._CLEAR_NOISE", 0.0)
    merged = cluster_embeddings(points, ClusterConfig(reducer="none"))
    assert not merged.path.own_cut and merged.n_clusters != result.n_clusters, (
        "a merging needs not be worth more by that"
    )
    monkeypatch.setattr("clustering.cluster._TIE", 2.0)
    even, truth = blobs([150, 150, 150], spread=0.1)
    merged = cluster_embeddings(even, ClusterConfig(reducer="pca", min_cluster_size=10, seed=3))
    assert not merged.path.own_cut, "of cuts into as many clusters the own one has to be worth more, tie or not"
    assert "merged into" in merged.why
    assert adjusted_rand_score(truth, merged.labels) > 0.9


def test_umap_takes_fewer_epochs_the_more_points_there_are():
    assert [umap_epochs(n) for n in (5000, 5001, 12_500, 12_501)] == [None, 200, 200, 60]


@pytest.mark.parametrize(("large", "negatives"), [(12_500, 5), (100, 3)])
def test_umap_pushes_as_hard_with_fewer_negatives_of_many_points(monkeypatch, large, negatives):
    import umap

    monkeypatch.setattr("clustering.reduce._LARGE_POINTS", large)
    given = {}
    make = umap.UMAP
    monkeypatch.setattr(umap, "UMAP", lambda **settings: given.update(settings) or make(**settings))
    points, _ = blobs([100, 100], spread=0.1)
    reduce_points(points, "umap", 2, nearest_neighbors(points, 15), seed=0)
    assert umap_negatives(len(points)) == given["negative_sample_rate"] == negatives
    assert given["negative_sample_rate"] * given["repulsion_strength"] == pytest.approx(5)


def test_umap_takes_fewer_neighbours_of_many_points_and_the_path_says_how_many(monkeypatch):
    assert [umap_neighbors(n) for n in (300, 12_500, 12_501)] == [15, 15, 10]
    points, truth = blobs([150, 150, 150], spread=0.1)
    assert ", 15 neighbours" in cluster_embeddings(points).path.reduction
    assert ", 7 neighbours" in cluster_embeddings(points, ClusterConfig(n_neighbors=7)).path.reduction
    monkeypatch.setattr("clustering.reduce._LARGE_POINTS", 400)
    many = cluster_embeddings(points)
    assert ", 10 neighbours" in many.path.reduction
    assert adjusted_rand_score(truth, many.labels) > 0.9
