"""The CLINC150 world: real queries of 150 intents in ten domains, three of which the base model never saw.

CLINC150 (Larson et al. 2019, "An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction",
CC BY 3.0) is not part of the repository. The base model learns the intents of seven domains from their training
split; the traffic is made of queries that it has not seen, and its later weeks bring the other three domains and
questions out of scope. Everything made here is kept under a digest of what it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import load_file

from cascade.errors import ConfigError, InputError
from lab.files import write_atomically, write_jsonl
from lab.traffic import WEEK, TrafficConfig
from lab.world import LabConfig, Prepared

CHECKOUT = Path(__file__).parents[1]
FOLDER_VARIABLE = "CLINC150_FOLDER"
"""Environment variable that names the folder of data_full.json and domains.json."""
FOLDER = Path("../shared/datasets/clinc150")
"""Where the data set is looked for otherwise; a relative path starts at the checkout."""
EMBEDDER = CHECKOUT / "../shared/models/potion-base-4m"
NEW_DOMAINS = ("credit_cards", "travel", "work")
"""One that is close to a known domain (banking), two that are not."""
ROUTE = "assistant"
OUT_OF_SCOPE = "oos"
SPLITS = ("train", "val", "test")


class BaseModelConfig(BaseModel):
    """How the cheap model is trained from scratch; the defaults give 2.6 M parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden_size: int = Field(256, ge=8)
    intermediate_size: int = Field(704, ge=8)
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    vocabulary: int = Field(4000, ge=300)
    variants: int = Field(10, ge=1)
    """Passes over the training queries; each but the first sees them with words replaced and dropped."""
    word_dropout: float = Field(0.2, ge=0, lt=1)
    """Chance of each word to be dropped in a variant."""
    word_replacement: float = Field(0.2, ge=0, lt=1)
    """Chance of each other word to be replaced by one of like meaning."""
    learning_rate: float = Field(1.5e-3, gt=0)
    batch_size: int = Field(64, ge=1)
    weight_decay: float = Field(0.1, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    """Of attention weights."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Item:
    """One query of the data set with its gold intent."""

    text: str
    intent: str
    domain: str
    """`oos` for a query out of scope."""


@dataclass(frozen=True, slots=True)
class Clinc150:
    """The data set: items by split (train, val, test, and all of out-of-scope under `oos`)."""

    splits: dict[str, tuple[Item, ...]]
    domains: tuple[str, ...]
    digest: str
    """Of the two files that were read."""


def prepare(config: LabConfig, folder: Path) -> Prepared:
    """Make traffic and flagship answers in `folder` and the base model beside it, or find them there.

    Only the traffic depends on the world's seed, so that worlds of all seeds share one base model. Raises ConfigError
    without the data set, InputError when it is damaged or too small for the traffic.
    """
    data = load_dataset(dataset_folder())
    traffic, answers = _prepare_traffic(config, data, folder)
    return Prepared(traffic, answers, _prepare_base_model(BaseModelConfig(), data, folder.parent), EMBEDDER)


def dataset_folder() -> Path:
    """Where the data set should be."""
    return CHECKOUT / os.environ.get(FOLDER_VARIABLE, FOLDER)


def load_dataset(folder: Path) -> Clinc150:
    """Read the data set. Raises ConfigError when it is not there, InputError when it is not readable."""
    digest = hashlib.sha256()
    found: list[Any] = []
    for name in ("data_full.json", "domains.json"):
        if not (folder / name).is_file():
            raise ConfigError(
                f"the CLINC150 data set is not at {folder} (no {name}): fetch the public data set clinc_oos"
                f" (github.com/clinc/oos-eval) and set {FOLDER_VARIABLE} to its folder"
            )
        content = (folder / name).read_bytes()
        digest.update(hashlib.sha256(content).digest())
        try:
            found.append(json.loads(content))
        except ValueError as error:
            raise InputError(f"{folder / name} is not JSON ({error}): fetch it again") from None
    rows, domains = found
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
    try:
        splits = {name: tuple(Item(text, intent, domain_of[intent]) for text, intent in rows[name]) for name in SPLITS}
        outside = [text for name in SPLITS for text, _ in rows[f"oos_{name}"]]
    except (KeyError, ValueError) as error:
        raise InputError(f"{folder / 'data_full.json'} is not CLINC150's (at {error}): fetch it again") from None
    splits[OUT_OF_SCOPE] = tuple(Item(text, OUT_OF_SCOPE, OUT_OF_SCOPE) for text in outside)
    return Clinc150(splits, tuple(domains), digest.hexdigest())


def base_training_items(data: Clinc150) -> list[Item]:
    """What the base model learns from: the training split of the known domains."""
    return [item for item in data.splits["train"] if item.domain not in NEW_DOMAINS]


def validation_items(data: Clinc150) -> list[Item]:
    """On which the base model's accuracy is measured: the validation split of the known domains."""
    return [item for item in data.splits["val"] if item.domain not in NEW_DOMAINS]


def training_pairs(
    items: Sequence[Item], config: BaseModelConfig, like: Mapping[str, Sequence[str]]
) -> list[tuple[list[dict[str, str]], str]]:
    """(messages, intent) pairs: every query as it is, then with changed words, `variants` of each in all.

    Dropped words keep a model of this size from learning ten thousand queries by heart; words of like meaning (`like`,
    by word) teach it some of the language that so few queries do not hold.
    """
    rng = random.Random(f"clinc150-words-{config.seed}")
    pairs = []
    for variant in range(config.variants):
        for item in items:
            text = item.text if variant == 0 else _vary(item.text, config, like, rng)
            pairs.append(([{"role": "user", "content": text}], item.intent))
    return pairs


def words_of_like_meaning(texts: Iterable[str], embedder: Path, n: int = 8, floor: float = 0.5) -> dict[str, list[str]]:
    """Up to `n` nearest words of each word of `texts` by the embedder's word vectors, with a cosine above `floor`.

    Reads the files of a static embedder: tokenizer.json and model.safetensors. Raises ConfigError without them.
    """
    if not (embedder / "tokenizer.json").is_file():
        raise ConfigError(f"the embedder is not at {embedder}: put the public model minishlab/potion-base-4M there")
    vocabulary = json.loads((embedder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    rows = {word: row for word, row in vocabulary.items() if word.isascii() and word.isalpha() and len(word) > 2}
    names = list(rows)
    vectors = next(iter(load_file(embedder / "model.safetensors").values()))[list(rows.values())]
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    place = {word: at for at, word in enumerate(names)}
    found: dict[str, list[str]] = {}
    for word in sorted({word for text in texts for word in text.split()} & place.keys()):
        cosines = vectors @ vectors[place[word]]
        nearest = [at for at in np.argsort(-cosines)[1 : n + 1] if cosines[at] > floor]
        if nearest:
            found[word] = [names[at] for at in nearest]
    return found


def traffic_rows(config: TrafficConfig, data: Clinc150, seed: int) -> list[dict[str, Any]]:
    """Rows {id, time, route, user, messages, schema, reference, tags}, ordered by time; weeks count from 1.

    No query comes twice and none is among the base model's training queries (case and punctuation aside).
    The tags are for the lab's own scoring only. Raises InputError when a domain has too few queries.
    """
    rng = random.Random(f"clinc150-traffic-{seed}")
    pools = _pools(data)
    for pool in pools.values():
        rng.shuffle(pool)
    early = _take(pools, _shares(config.early_queries, _known(data)), rng)
    drifted = _take(pools, _drifted_mix(config, data), rng)
    seconds, first, last = int(WEEK.total_seconds()), config.early_weeks, config.early_weeks + config.drifted_weeks
    # Times are drawn first and dealt out in order, so that the mix of domains is the same in every week.
    moments = sorted(rng.randrange(first * seconds) for _ in early)
    moments += sorted(rng.randrange(first * seconds, last * seconds) for _ in drifted)
    users = [f"user-{number:04d}" for number in range(config.users)]
    # A few users write much and most write little, as to any assistant.
    senders = rng.choices(users, [1 / (rank + 10) for rank in range(config.users)], k=len(moments))
    return [
        _row(number, config, second, item, user)
        for number, (second, item, user) in enumerate(zip(moments, early + drifted, senders, strict=True), 1)
    ]


def normalise(text: str) -> str:
    """Text with case, punctuation and white space levelled."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _known(data: Clinc150) -> list[str]:
    return [domain for domain in data.domains if domain not in NEW_DOMAINS]


def _drifted_mix(config: TrafficConfig, data: Clinc150) -> dict[str, int]:
    """Queries of each domain in the drifted weeks; known domains share equally, and so do new ones."""
    n_new = round(config.drifted_queries * config.new_share)
    n_outside = round(config.drifted_queries * config.out_of_scope_share)
    n_known = config.drifted_queries - n_new - n_outside
    return _shares(n_known, _known(data)) | _shares(n_new, NEW_DOMAINS) | {OUT_OF_SCOPE: n_outside}


def _pools(data: Clinc150) -> dict[str, list[Item]]:
    """Queries that traffic may draw from, by domain; known domains lend only what the base never saw."""
    seen = {normalise(item.text) for item in base_training_items(data)}
    pools: dict[str, list[Item]] = {domain: [] for domain in (*data.domains, OUT_OF_SCOPE)}
    for split in (*SPLITS, OUT_OF_SCOPE):
        for item in data.splits[split]:
            key = normalise(item.text)
            if key not in seen:
                seen.add(key)
                pools[item.domain].append(item)
    return pools


def _shares(total: int, names: Sequence[str]) -> dict[str, int]:
    """`total` in parts that differ by one at most."""
    return {name: total // len(names) + (rank < total % len(names)) for rank, name in enumerate(names)}


def _take(pools: dict[str, list[Item]], wanted: dict[str, int], rng: random.Random) -> list[Item]:
    """Remove the wanted number of items from each pool; in random order."""
    taken: list[Item] = []
    for name, number in wanted.items():
        if number > len(pools[name]):
            raise InputError(
                f"the traffic needs {number} more queries of {name} and the data set has {len(pools[name])} left:"
                " lower early_queries, drifted_queries or a share in lab.traffic"
            )
        taken += [pools[name].pop() for _ in range(number)]
    rng.shuffle(taken)
    return taken


def _row(number: int, config: TrafficConfig, second: int, item: Item, user: str) -> dict[str, Any]:
    return {
        "id": f"q{number:06d}",
        "time": (config.start + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "route": ROUTE,
        "user": user,
        "messages": [{"role": "user", "content": item.text}],
        "schema": None,
        "reference": item.intent,
        "tags": {
            "skill": item.intent,
            "week": second // int(WEEK.total_seconds()) + 1,
            "new": item.domain in (*NEW_DOMAINS, OUT_OF_SCOPE),
            "domain": item.domain,
        },
    }


def _vary(text: str, config: BaseModelConfig, like: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    words = text.split()
    kept = [word for word in words if rng.random() >= config.word_dropout] or words
    return " ".join(
        rng.choice(like[word]) if word in like and rng.random() < config.word_replacement else word for word in kept
    )


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _prepare_traffic(config: LabConfig, data: Clinc150, folder: Path) -> tuple[Path, Path]:
    digest = _digest(data.digest, NEW_DOMAINS, config.traffic.model_dump(mode="json"), config.seed)
    traffic, answers = folder / f"traffic-{digest}.jsonl", folder / f"answers-{digest}.jsonl"
    if not traffic.exists():
        rows = traffic_rows(config.traffic, data, config.seed)
        write_jsonl(answers, ({"content": row["messages"][0]["content"], "answer": row["reference"]} for row in rows))
        write_jsonl(traffic, rows)  # last: its presence says that both are there
    return traffic, answers


def _prepare_base_model(config: BaseModelConfig, data: Clinc150, parent: Path) -> Path:
    folder = parent / f"clinc150-base-{_digest(data.digest, NEW_DOMAINS, config.model_dump())}"
    if not folder.exists():
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        train_base_model(base_training_items(data), config, temporary)
        try:
            temporary.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(temporary)
    return folder


def train_base_model(items: Sequence[Item], config: BaseModelConfig, folder: Path) -> None:
    """Train tokenizer and model from scratch on the items and save them, with the cost of training, to `folder`."""
    from lab.pretrain import PretrainConfig, save_model, train_causal_lm, train_tokenizer

    like = words_of_like_meaning((item.text for item in items), EMBEDDER)
    pairs = training_pairs(items, config, like)
    tokenizer = train_tokenizer(
        (f"{messages[0]['content']}\n{intent}" for messages, intent in pairs), config.vocabulary
    )
    result = train_causal_lm(
        pairs,
        tokenizer,
        PretrainConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            layers=config.layers,
            heads=config.heads,
            epochs=1.0,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            dropout=config.dropout,
            seed=config.seed,
        ),
        description="train base model",
    )
    save_model(result.model, tokenizer, folder)
    record = {
        "parameters": result.parameters,
        "seconds": result.seconds,
        "tokens": result.tokens,
        "loss": result.losses,
    }
    write_atomically(folder / "training.json", json.dumps(record) + "\n")
