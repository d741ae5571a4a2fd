"""Embedding more texts than fit in memory: shards, each a call of one plain function, then one matrix on disk.

    tasks = shard_tasks(texts, config, folder)         cut into shards; texts come from any iterable
    paths = list(run(embed_shard, tasks))              `run` is `map`, or any runner's own map
    vectors = join_shards(paths, folder / "all.npy")   (n, d), read from disk as it is used

`embed_shard` takes one picklable record and returns a path, keeps nothing between calls but the loaded model, and does
nothing where its file is there: so it can be mapped over processes or machines that share the folder, and a killed
call goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cascade.errors import InputError
from clustering.embed import EmbedConfig, embed_texts

Matrix = NDArray[np.float32]
Run = Callable[[Callable[["ShardTask"], Path], Iterable["ShardTask"]], Iterable[Path]]
SHARD_TEXTS = 50_000


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard's texts and where its vectors go."""

    number: int
    texts: tuple[str, ...]
    config: EmbedConfig
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / f"shard-{self.number:05d}.npy"


def shard_tasks(
    texts: Iterable[str], config: EmbedConfig, folder: Path, shard_texts: int = SHARD_TEXTS
) -> Iterator[ShardTask]:
    """The texts in order, `shard_texts` to a task; one shard is held at a time."""
    rest = iter(texts)
    number = 0
    while part := tuple(islice(rest, shard_texts)):
        yield ShardTask(number, part, config, folder)
        number += 1


def embed_shard(task: ShardTask) -> Path:
    """Embed one shard to its file, whole or not at all; the path. A file of as many rows is left as it is."""
    if task.path.exists() and len(np.load(task.path, mmap_mode="r")) == len(task.texts):
        return task.path
    task.folder.mkdir(parents=True, exist_ok=True)
    vectors = embed_texts(task.texts, task.config, progress=False)
    temporary = task.path.with_name(f".{task.path.stem}.{os.getpid()}.tmp.npy")
    with temporary.open("wb") as file:
        np.save(file, vectors)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(task.path)
    return task.path


def join_shards(paths: Sequence[Path], out: Path) -> Matrix:
    """All shards as one (n, d) matrix in a file, mapped read-only. Raises InputError when their widths differ."""
    shapes = [np.load(path, mmap_mode="r").shape for path in paths]
    widths = {shape[1] for shape in shapes}
    if len(widths) > 1:
        raise InputError(f"shards in {out.parent} have {sorted(widths)} columns: remove them and embed again")
    n, width = sum(shape[0] for shape in shapes), next(iter(widths), 0)
    temporary = out.with_name(f".{out.stem}.{os.getpid()}.tmp.npy")
    joined = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(n, width))
    start = 0
    for path, shape in zip(paths, shapes, strict=True):
        joined[start : start + shape[0]] = np.load(path, mmap_mode="r")
        start += shape[0]
    joined.flush()
    del joined
    temporary.replace(out)
    return np.asarray(np.load(out, mmap_mode="r"))


def embed_in_shards(
    texts: Sequence[str], config: EmbedConfig, folder: Path, run: Run = map, shard_texts: int = SHARD_TEXTS
) -> Matrix:
    """The three steps at once, with a progress bar over the shards."""
    total = -(-len(texts) // shard_texts)
    tasks = shard_tasks(texts, config, folder, shard_texts)
    paths = list(tqdm(run(embed_shard, tasks), "embed", total, unit="shard"))
    return join_shards(paths, folder / "all.npy")
