"""Learning rate and rank, picked on a validation part of the targeted set and never on held-out queries."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from cascade.errors import ConfigError
from finetune.adapter import RECORD, VALIDATION
from finetune.spec import TrainSpec
from finetune.train import train_adapter


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting and what it came to."""

    learning_rate: float
    rank: int
    validation_loss: float
    """Lowest mean loss (nats per completion token) on the examples held back."""
    best_step: int
    n_steps: int
    final_loss: float
    """On the examples trained on: far below the validation loss, the rate or the rank is too high."""
    seconds: float


def sweep(
    spec: TrainSpec,
    learning_rates: Sequence[float],
    ranks: Sequence[int],
    folder: Path,
    after: Callable[[Trial], None] = lambda _trial: None,
) -> list[Trial]:
    """Train once per setting in `folder`; the trials by validation loss, best first.

    All train on the same examples in the same order and are judged on the same ones held back. A trial that is
    there is not trained again. Raises ConfigError without a validation share.
    """
    if spec.validation_share <= 0:
        raise ConfigError("A sweep needs examples to judge by; set train.validation_share, for instance to 0.15.")
    trials = []
    for rate, rank in product(learning_rates, ranks):
        name = f"rate-{rate:g}-rank-{rank}"
        changes = {"learning_rate": rate, "rank": rank, "init_adapter": None, "out": folder / name / "adapter"}
        adapter = train_adapter(spec.model_copy(update=changes), folder / name)
        record = json.loads((adapter.path / RECORD).read_text())
        if not record["n_validation"]:
            raise ConfigError(f"validation_share {spec.validation_share} of the flagship's answers is none; raise it.")
        curve = [json.loads(line) for line in (adapter.path / VALIDATION).read_text().splitlines()]
        best = min(curve, key=lambda row: row["loss"])
        trials.append(
            Trial(rate, rank, best["loss"], best["step"], record["n_steps"], adapter.final_loss, adapter.seconds)
        )
        after(trials[-1])
    return sorted(trials, key=lambda t: t.validation_loss)
