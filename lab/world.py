"""Open a lab world: traffic on disk, a base model, an embedder and a running flagship, behind one ``with`` block.

A world is a module with ``prepare(config, folder) -> Prepared``; ``WORLDS`` names them.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from lab.flagship import serve_flagship
from lab.flagship_book import FlagshipOptions
from lab.traffic import TrafficConfig

WORLDS = {"shop": "lab.shop", "clinc150": "lab.clinc150", "banking77": "lab.banking77"}


class LabConfig(BaseModel):
    """What world to open; everything generated goes under `folder`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    world: Literal["shop", "clinc150", "banking77"] = "shop"
    new: tuple[str, ...] | str | None = None
    """What the base model never saw: domains (clinc150), intents (banking77), or the name of a choice of them that the
    world's module documents (`default`, `development`); None is the default. The shop's new skills are fixed."""
    seed: int = 0
    traffic: TrafficConfig = Field(default_factory=TrafficConfig)
    flagship: FlagshipOptions = Field(default_factory=FlagshipOptions)
    models: Path = Path(__file__).parent / "models"
    """Folder of the built models (base/ and embedder/ for the shop)."""
    folder: Path = Path(".lab")

    @field_validator("new")
    @classmethod
    def _has_a_choice(cls, new: tuple[str, ...] | str | None, info: ValidationInfo) -> tuple[str, ...] | str | None:
        if new is not None and info.data.get("world") == "shop":
            raise ValueError("the shop's new skills are fixed: leave lab.new out")
        return new

    @property
    def home(self) -> Path:
        """Folder of the files and of the flagship's ledger; each seed and each choice of what is new has its own."""
        name = f"{self.world}-{self.seed}"
        if self.new in (None, "default"):
            return self.folder / name
        chosen = self.new if isinstance(self.new, str) else sorted(set(self.new or ()))
        return self.folder / f"{name}-{hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Prepared:
    """Files of a world that is not yet served."""

    traffic_path: Path
    answers_path: Path
    base_model_path: Path
    embedder_path: Path


@dataclass(frozen=True)
class World:
    """A world in service; `flagship_url` ends in /v1."""

    traffic_path: Path
    base_model_path: Path
    embedder_path: Path
    flagship_url: str
    flagship_model: str
    ledger_path: Path


class _WorldModule(Protocol):
    def prepare(self, config: LabConfig, folder: Path) -> Prepared: ...


@contextmanager
def open_world(config: LabConfig) -> Iterator[World]:
    """Generate what is missing, start the flagship and stop it at the end.

    Raises FileNotFoundError when the models have not been built, FlagshipError when the server does not start.
    """
    module = cast(_WorldModule, importlib.import_module(WORLDS[config.world]))
    folder = config.home
    prepared = module.prepare(config, folder)
    ledger = folder / "flagship-ledger.jsonl"
    with serve_flagship(prepared.answers_path, config.flagship, ledger=ledger) as url:
        yield World(
            traffic_path=prepared.traffic_path,
            base_model_path=prepared.base_model_path,
            embedder_path=prepared.embedder_path,
            flagship_url=url,
            flagship_model=config.flagship.models[0],
            ledger_path=ledger,
        )
