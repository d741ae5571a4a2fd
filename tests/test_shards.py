"""Shards: the same vectors as all at once, whatever runs them, and a killed call goes on."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cascade.errors import InputError
from clustering.embed import EmbedConfig, embed_texts
from clustering.shards import embed_in_shards, embed_shard, join_shards, shard_tasks

POTION = Path(__file__).resolve().parents[2] / "shared" / "models" / "potion-base-4m"
TEXTS = [f"where is parcel number {i}" for i in range(25)]
needs_model = pytest.mark.skipif(not POTION.is_dir(), reason="the static embedder is not there")


@needs_model
def test_shards_give_the_vectors_of_all_at_once(tmp_path):
    config = EmbedConfig(model=str(POTION))
    whole = embed_texts(TEXTS, config, progress=False)
    vectors = embed_in_shards(TEXTS, config, tmp_path, shard_texts=10)
    assert np.allclose(vectors, whole, atol=1e-6)
    assert isinstance(vectors.base, np.memmap), "read from disk"
    assert len(list(tmp_path.glob("shard-*.npy"))) == 3
    with ThreadPoolExecutor(2) as pool:
        elsewhere = embed_in_shards(TEXTS, config, tmp_path / "pool", run=pool.map, shard_texts=10)
    assert np.allclose(elsewhere, whole, atol=1e-6)


@needs_model
def test_a_finished_shard_is_not_made_again_and_an_unfinished_one_is(tmp_path):
    tasks = list(shard_tasks(TEXTS, EmbedConfig(model=str(POTION)), tmp_path, 10))
    assert pickle.loads(pickle.dumps(tasks[0])) == tasks[0]
    np.save(tasks[0].path, np.full((10, 128), 7, np.float32))
    np.save(tasks[2].path, np.full((2, 128), 7, np.float32))  # five texts, two rows
    made = [np.load(embed_shard(task)) for task in tasks]
    assert (made[0] == 7).all()
    assert [len(rows) for rows in made] == [10, 10, 5]
    assert not (made[2] == 7).any()


def test_shards_of_two_models_do_not_join(tmp_path):
    paths = [tmp_path / f"{width}.npy" for width in (3, 4)]
    for path, width in zip(paths, (3, 4), strict=True):
        np.save(path, np.zeros((2, width), np.float32))
    with pytest.raises(InputError, match=r"\[3, 4\] columns"):
        join_shards(paths, tmp_path / "all.npy")
    assert not (tmp_path / "all.npy").exists()


def test_no_texts(tmp_path):
    assert list(shard_tasks([], EmbedConfig(model="none"), tmp_path)) == []
