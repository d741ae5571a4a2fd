"""The BANKING77 world: real questions to a bank, 25 of whose 77 intents the base model never saw.

BANKING77 (Casanueva et al. 2020, "Efficient Intent Detection with Dual Sentence Encoders", CC BY 4.0) is not part of
the repository. All intents are of one domain and many are near to each other, so that what is new looks like what is
known. The base model learns 52 intents from one half of the training file; the traffic is made of the other half and
of the test file, and its later weeks bring the other 25 intents. Nothing is out of scope.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cascade.errors import ConfigError, InputError
from lab.intent_model import CHECKOUT, Item
from lab.intents import OUT_OF_SCOPE, IntentData, by_digest, choose_new, prepare_world
from lab.world import LabConfig, Prepared

FOLDER_VARIABLE = "BANKING77_FOLDER"
"""Environment variable that names the folder of train.csv and test.csv."""
FOLDER = Path("../shared/datasets/banking77")
"""Where the data set is looked for otherwise; a relative path starts at the checkout."""
N_NEW = 25


def prepare(config: LabConfig, folder: Path) -> Prepared:
    """Make traffic and flagship answers in `folder` and the base model beside it, or find them there.

    Raises ConfigError without the data set, InputError when it is damaged or too small for the traffic.
    """
    return prepare_world(load_dataset(dataset_folder(), config.new), config, folder)


def dataset_folder() -> Path:
    """Where the data set should be."""
    return CHECKOUT / os.environ.get(FOLDER_VARIABLE, FOLDER)


def choices(intents: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """New intents by the name of the choice: in the order of the SHA-256 of their names the first 25 are the default
    and the next 25 are for development, to tune settings on."""
    ordered = by_digest(intents)
    return {"default": tuple(ordered[:N_NEW]), "development": tuple(ordered[N_NEW : 2 * N_NEW])}


def load_dataset(folder: Path, new: Sequence[str] | str | None = None) -> IntentData:
    """Read the data set; `new` are the intents that the base model never sees, or the name of a choice.

    Raises ConfigError when it is not there or `new` is not of it, InputError when it is not readable.
    """
    rows = {name: _read(folder / f"{name}.csv") for name in ("train", "test")}
    intents = tuple(sorted({item.intent for item in rows["train"]}))
    strange = sorted({item.intent for item in rows["test"]} - set(intents))
    if strange:
        raise InputError(f"{folder / 'test.csv'} has the intent {strange[0]!r} and train.csv has not: fetch both again")
    splits = {**_halves(rows["train"]), "test": rows["test"], OUT_OF_SCOPE: ()}
    return IntentData(
        name="banking77",
        route="banking",
        splits=splits,
        domains=intents,
        new=choose_new(new, choices(intents), intents, "BANKING77's intents"),
        even=False,
        digest=_digest(splits),
    )


def _read(path: Path) -> tuple[Item, ...]:
    if not path.is_file():
        raise ConfigError(
            f"the BANKING77 data set is not at {path.parent} (no {path.name}): fetch the public data set banking77"
            f" (github.com/PolyAI-LDN/task-specific-datasets) and set {FOLDER_VARIABLE} to its folder"
        )
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not CSV in UTF-8 ({error}): fetch it again") from None
    if not rows or any(not row.get("text") or not row.get("category") for row in rows):
        raise InputError(f"{path} is not BANKING77's (rows of text and category are needed): fetch it again")
    return tuple(Item(row["text"].strip(), row["category"], row["category"]) for row in rows)


def _halves(items: Sequence[Item]) -> dict[str, tuple[Item, ...]]:
    """The training file of each intent in two halves, by the order of the SHA-256 of its texts.

    `train` is for the base model; `val`, which it never sees, measures it and is traffic.
    """
    by_intent: dict[str, list[str]] = {}
    for item in items:
        by_intent.setdefault(item.intent, []).append(item.text)
    halves: dict[str, list[Item]] = {"train": [], "val": []}
    for intent, texts in sorted(by_intent.items()):
        ordered = [Item(text, intent, intent) for text in by_digest(texts)]
        middle = (len(ordered) + 1) // 2
        halves["train"] += ordered[:middle]
        halves["val"] += ordered[middle:]
    return {name: tuple(half) for name, half in halves.items()}


def _digest(splits: Mapping[str, Sequence[Item]]) -> str:
    rows = {name: [(item.text, item.intent) for item in items] for name, items in splits.items()}
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
