"""The CLINC150 world: real queries of 150 intents in ten domains, three of which the base model never saw.

CLINC150 (Larson et al. 2019, "An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction",
CC BY 3.0) is not part of the repository. The base model learns the intents of seven domains from their training
split; the traffic is made of queries that it has not seen, and its later weeks bring the other three domains and
questions out of scope.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cascade.errors import ConfigError, InputError
from lab.intent_model import CHECKOUT, Item
from lab.intents import OUT_OF_SCOPE, SPLITS, IntentData, choose_new, prepare_world
from lab.world import LabConfig, Prepared

FOLDER_VARIABLE = "CLINC150_FOLDER"
"""Environment variable that names the folder of data_full.json and domains.json."""
FOLDER = Path("../shared/datasets/clinc150")
"""Where the data set is looked for otherwise; a relative path starts at the checkout."""
CHOICES = {
    "default": ("credit_cards", "travel", "work"),
    "development": ("auto_and_commute", "home", "small_talk"),
}
"""New domains by the name of the choice. `default` has one that is close to a known domain (banking) and two that are
not; `development`, to tune settings on, has the first three of the others by the SHA-256 of their names."""


def prepare(config: LabConfig, folder: Path) -> Prepared:
    """Make traffic and flagship answers in `folder` and the base model beside it, or find them there.

    Raises ConfigError without the data set, InputError when it is damaged or too small for the traffic.
    """
    return prepare_world(load_dataset(dataset_folder(), config.new), config, folder)


def dataset_folder() -> Path:
    """Where the data set should be."""
    return CHECKOUT / os.environ.get(FOLDER_VARIABLE, FOLDER)


def load_dataset(folder: Path, new: Sequence[str] | str | None = None) -> IntentData:
    """Read the data set; `new` are the domains that the base model never sees, or the name of a choice.

    Raises ConfigError when it is not there or `new` is not of it, InputError when it is not readable.
    """
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
    return IntentData(
        name="clinc150",
        route="assistant",
        splits=splits,
        domains=tuple(domains),
        new=choose_new(new, CHOICES, tuple(domains), "CLINC150's domains"),
        even=True,
        digest=digest.hexdigest(),
    )
