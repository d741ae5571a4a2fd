from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cascade.errors import ConfigError
from clustering.embed import EmbedConfig, embed_texts, model_identity

POTION = Path(__file__).resolve().parents[2] / "shared" / "models" / "potion-base-4m"
pytestmark = pytest.mark.skipif(not POTION.is_dir(), reason=f"the embedder {POTION.name} is not there")
TEXTS = ["where is my parcel", "cancel my order please", "where is my parcel", "refund the shoes"]


@pytest.fixture(scope="module")
def config():
    return EmbedConfig(model=str(POTION), batch_size=2)


def test_rows_are_unit_vectors_in_the_order_of_the_texts(config):
    vectors = embed_texts(TEXTS, config, progress=False)
    assert vectors.dtype == np.float32
    assert vectors.shape[0] == 4
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors[0], vectors[2])
    near, far = embed_texts(["my parcel, where is it"], config, progress=False) @ vectors[[0, 3]].T, 0.8
    assert near[0, 0] > far > near[0, 1]


def test_cached_vectors_are_the_same_and_need_no_model(config, tmp_path):
    cache = tmp_path / "deep" / "vectors.db"
    fresh = embed_texts(TEXTS, config, cache, progress=False)
    hidden = tmp_path / "model"
    shutil.copytree(POTION, hidden)
    moved = EmbedConfig(model=str(hidden))
    assert model_identity(moved) == model_identity(config), "a model is known by its files, not its place"
    (hidden / "modules.json").rename(hidden / "modules.gone")  # cannot be loaded any more
    with pytest.raises(ConfigError):
        embed_texts(["new text"], EmbedConfig(model=str(hidden / "nowhere")), cache, progress=False)
    assert np.array_equal(embed_texts(TEXTS, config, cache, progress=False), fresh)
    assert np.array_equal(embed_texts(TEXTS, config, progress=False), fresh)


def test_only_missing_texts_are_embedded(config, tmp_path):
    import sqlite3

    cache = tmp_path / "vectors.db"
    embed_texts(TEXTS[:1], config, cache, progress=False)
    with sqlite3.connect(cache) as db:
        poisoned = np.full(128, 7, np.float32)
        db.execute("UPDATE vectors SET vector = ?", [poisoned.tobytes()])
    db.close()
    again = embed_texts(TEXTS[:1], config, cache, progress=False)
    assert np.array_equal(again[0], poisoned), "the cache was read"


def test_another_model_does_not_read_this_ones_vectors(config, tmp_path):
    other = tmp_path / "model"
    shutil.copytree(POTION, other)
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    assert model_identity(EmbedConfig(model=str(other))) != model_identity(config)
    assert model_identity(EmbedConfig(model="a/b", revision="1")) != model_identity(EmbedConfig(model="a/b"))


def test_no_texts_and_blank_texts(config):
    assert embed_texts([], config, progress=False).shape[0] == 0
    assert np.isfinite(embed_texts(["", "hello"], config, progress=False)).all()


def test_a_prompt_changes_the_vectors_and_their_identity(config, tmp_path):
    asking = config.model_copy(update={"prompt": "cancel the order: "})
    assert model_identity(asking) != model_identity(config)
    assert model_identity(config.model_copy(update={"dtype": "float16"})) != model_identity(config)
    cache = tmp_path / "vectors.db"
    plain, prompted = (embed_texts(TEXTS[:1], c, cache, progress=False) for c in (config, asking))
    assert not np.allclose(plain, prompted)
    assert np.allclose(prompted, embed_texts(["cancel the order: " + TEXTS[0]], config, progress=False), atol=1e-5)
