"""Texts to unit vectors, with a cache on disk so that a query is embedded once in its life.

A vector is kept under what decides it: the text as the model reads it, the model's files (or its hub name and
revision), the prompt before each text, and the number format of its weights.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from cascade.errors import ConfigError

Matrix = NDArray[np.float32]
_CHUNK_BATCHES = 16  # texts are embedded and stored in chunks of this many batches
_SQL_VARIABLES = 500  # SQLite's oldest limit on "?" in one statement is 999


class EmbedConfig(BaseModel):
    """Which sentence-transformers model embeds the queries."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    """A folder, or a name on the model hub."""
    revision: str | None = None
    """Of a hub name; pin it, or a model that changes there meets vectors of its older self in the cache."""
    prompt: str = ""
    """Put before each text, for models that were trained with one (e.g. "query: ")."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Format of the weights; the vectors are float32 in any case. Half precision is for GPUs."""
    max_characters: int = Field(default=8000, ge=1)
    """Longer texts are cut before they are embedded: what a query wants is said at its start, and the model reads a
    few hundred tokens at most."""
    batch_size: int = Field(default=256, ge=1)


def embed_texts(
    texts: Sequence[str], config: EmbedConfig, cache_path: Path | None = None, progress: bool = True
) -> Matrix:
    """Embed texts: (n, d) float32, rows of length 1 (a text without known tokens gives a zero row).

    Equal texts are embedded once. With `cache_path` (an SQLite file, made if absent) vectors are kept
    under a digest of the model's files and the text, and a killed call continues where it stopped. The model runs
    on the GPU when there is one, on batches of texts of like length. Raises ConfigError when the model cannot be
    loaded.
    """
    cut = [text[: config.max_characters] for text in texts]
    digests = [_text_digest(text) for text in cut]
    unique = dict(zip(digests, cut, strict=True))
    if cache_path is None:
        found = _embed_missing(unique, config, None, "", progress)
    else:
        identity = model_identity(config)
        cache_path.parent.mkdir(parents=True, exist_ok=True)
        with closing(_open_cache(cache_path)) as cache:
            found = _read_cache(cache, identity, list(unique))
            missing = {digest: text for digest, text in unique.items() if digest not in found}
            found |= _embed_missing(missing, config, cache, identity, progress)
    if not texts:
        return np.empty((0, 0), np.float32)
    return np.stack([found[digest] for digest in digests])


def cached_texts(cache_path: Path, texts: Collection[str]) -> int:
    """How many of `texts` have vectors in a cache, of any model; 0 without a cache."""
    if not cache_path.exists():
        return 0
    with closing(_open_cache(cache_path)) as cache:
        models = [row[0] for row in cache.execute("SELECT DISTINCT model FROM vectors")]
        digests = [_text_digest(text) for text in set(texts)]
        return len({text for model in models for text in _read_cache(cache, model, digests)})


def forget_texts(cache_path: Path, texts: Collection[str]) -> None:
    """Delete the vectors of `texts` for good, of every model."""
    if not cache_path.exists():
        return
    with closing(_open_cache(cache_path)) as cache:
        cache.execute("PRAGMA secure_delete = ON")  # else the vectors stay in free pages
        with cache:
            # The key begins with the model, so each model's rows are looked up by key.
            models = [row[0] for row in cache.execute("SELECT DISTINCT model FROM vectors")]
            keys = [(model, _text_digest(text)) for text in set(texts) for model in models]
            cache.executemany("DELETE FROM vectors WHERE model = ? AND text = ?", keys)
        cache.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def n_cut(texts: Sequence[str], config: EmbedConfig) -> int:
    """How many texts are too long for the embedder and are embedded by their beginning."""
    return sum(len(text) > config.max_characters for text in texts)


def model_identity(config: EmbedConfig) -> str:
    """Digest that changes when the model does: its files for a folder, name and revision for a hub name; with the
    prompt and the number format, where they are not the plain ones."""
    digest = hashlib.sha256()
    if config.prompt or config.dtype != "float32":
        digest.update(json.dumps([config.prompt, config.dtype]).encode())
    folder = Path(config.model)
    if not folder.is_dir():
        digest.update(f"{config.model}@{config.revision}".encode())
        return digest.hexdigest()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in {".json", ".safetensors", ".txt", ".model", ".bin"}:
            digest.update(file.relative_to(folder).as_posix().encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _embed_missing(
    missing: dict[str, str],
    config: EmbedConfig,
    cache: sqlite3.Connection | None,
    identity: str,
    progress: bool,
) -> dict[str, Matrix]:
    if not missing:
        return {}
    model = _load_model(config.model, config.revision, config.dtype)
    found: dict[str, Matrix] = {}
    items = sorted(missing.items(), key=lambda item: (len(item[1]), item[0]))  # like lengths pad little
    step = config.batch_size * _CHUNK_BATCHES
    with tqdm(total=len(items), desc="embed", unit="text", disable=not progress) as bar:
        for start in range(0, len(items), step):
            chunk = items[start : start + step]
            vectors = model.encode(
                [text.encode("utf-8", "replace").decode() for _, text in chunk],  # a lone surrogate is no text
                prompt=config.prompt or None,
                batch_size=config.batch_size,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            rows = dict(zip((digest for digest, _ in chunk), _unit_rows(vectors), strict=True))
            if cache is not None:
                _write_cache(cache, identity, rows)
            found |= rows
            bar.update(len(chunk))
    return found


@lru_cache(maxsize=1)
def _load_model(model: str, revision: str | None, dtype: str) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        kwargs = {} if dtype == "float32" else {"model_kwargs": {"dtype": dtype}}
        return SentenceTransformer(model, revision=revision, **kwargs)
    except Exception as error:
        raise ConfigError(
            f"The embedder {model!r} could not be loaded ({error}); give a sentence-transformers folder or hub name."
        ) from error


def _unit_rows(vectors: Any) -> Matrix:
    matrix = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(np.divide(matrix, lengths, out=np.zeros_like(matrix), where=lengths > 0), np.float32)


def _open_cache(path: Path) -> sqlite3.Connection:
    cache = sqlite3.connect(path, timeout=60)
    cache.execute("PRAGMA journal_mode=WAL")
    cache.execute(
        "CREATE TABLE IF NOT EXISTS vectors"
        " (model TEXT, text TEXT, vector BLOB, PRIMARY KEY (model, text)) WITHOUT ROWID"
    )
    return cache


def _read_cache(cache: sqlite3.Connection, identity: str, digests: list[str]) -> dict[str, Matrix]:
    found: dict[str, Matrix] = {}
    for start in range(0, len(digests), _SQL_VARIABLES):
        part = digests[start : start + _SQL_VARIABLES]
        marks = ",".join("?" * len(part))
        rows = cache.execute(
            f"SELECT text, vector FROM vectors WHERE model = ? AND text IN ({marks})", [identity, *part]
        )
        found |= {text: np.frombuffer(vector, np.float32) for text, vector in rows}
    return found


def _write_cache(cache: sqlite3.Connection, identity: str, rows: dict[str, Matrix]) -> None:
    with cache:
        cache.executemany(
            "INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)",
            [(identity, digest, vector.tobytes()) for digest, vector in rows.items()],
        )
