"""The base model of a world of real queries: trained from scratch to name a query's intent.

Some thousand queries are few for that; words dropped and replaced by others of like meaning make more of them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import load_file

from cascade.errors import ConfigError
from lab.files import write_atomically

CHECKOUT = Path(__file__).parents[1]
EMBEDDER = CHECKOUT / "../shared/models/potion-base-4m"


@dataclass(frozen=True, slots=True)
class Item:
    """One query of a data set with its gold intent."""

    text: str
    intent: str
    domain: str
    """What is new or known as a whole; `oos` for a query out of scope. May be the intent itself."""


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
    """Chance of each other word to be replaced by one of like meaning; at 0 the embedder is not needed."""
    learning_rate: float = Field(1.5e-3, gt=0)
    batch_size: int = Field(64, ge=1)
    weight_decay: float = Field(0.1, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    """Of attention weights."""
    seed: int = 0


BASE_MODEL = BaseModelConfig()
"""The recipe of every world's base model."""


def train_base_model(items: Sequence[Item], config: BaseModelConfig, folder: Path, world: str) -> None:
    """Train tokenizer and model from scratch on the items and save them, with the cost of training, to `folder`.

    Raises ConfigError when words are to be replaced and the embedder, which knows words of like meaning, is not there.
    """
    from lab.pretrain import PretrainConfig, save_model, train_causal_lm, train_tokenizer

    like = words_of_like_meaning((item.text for item in items), EMBEDDER) if config.word_replacement else {}
    pairs = training_pairs(items, config, like, world)
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


def training_pairs(
    items: Sequence[Item], config: BaseModelConfig, like: Mapping[str, Sequence[str]], world: str
) -> list[tuple[list[dict[str, str]], str]]:
    """(messages, intent) pairs: every query as it is, then with changed words, `variants` of each in all.

    Dropped words keep a model of this size from learning ten thousand queries by heart; words of like meaning (`like`,
    by word) teach it some of the language that so few queries do not hold. `world` names the random stream.
    """
    rng = random.Random(f"{world}-words-{config.seed}")
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


def _vary(text: str, config: BaseModelConfig, like: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    words = text.split()
    kept = [word for word in words if rng.random() >= config.word_dropout] or words
    return " ".join(
        rng.choice(like[word]) if word in like and rng.random() < config.word_replacement else word for word in kept
    )
