"""A trained adapter folder and its record."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.errors import StageError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
RECORD = "train.json"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: a folder as peft writes it, with train.json and loss.jsonl beside the weights."""

    path: Path
    base_model: str
    digest: str
    rank: int
    train_tokens: int
    """Prompt and completion tokens seen in training, repeats counted, padding not."""
    completion_tokens: int
    """Tokens among them that carried loss."""
    final_loss: float
    """Mean completion-token loss (nats) over the last tenth of the steps."""
    seconds: float


def adapter_digest(path: Path) -> str:
    """SHA-256 over the weights and the settings that shape them; the base model's path is not part of it.

    Raises StageError when the folder is not a complete safetensors adapter.
    """
    weights, config = path / WEIGHTS, path / CONFIG
    if not weights.is_file() or not config.is_file():
        raise StageError(f"{path} is no adapter folder: it needs {WEIGHTS} and {CONFIG}.")
    settings = json.loads(config.read_text())
    shape = {key: _sorted(settings.get(key)) for key in ("r", "lora_alpha", "target_modules", "use_rslora")}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    with weights.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_adapter_record(path: Path) -> Adapter:
    """Record of a finished adapter folder. Raises StageError when it is unfinished or was changed since."""
    record = path / RECORD
    if not record.is_file():
        raise StageError(f"{path} holds no finished training ({RECORD} is missing); train again.")
    row = json.loads(record.read_text())
    digest = adapter_digest(path)
    if digest != row["digest"]:
        raise StageError(f"The adapter in {path} was changed after training; train again.")
    return Adapter(
        path=path,
        base_model=row["base_model"],
        digest=digest,
        rank=row["rank"],
        train_tokens=row["train_tokens"],
        completion_tokens=row["completion_tokens"],
        final_loss=row["final_loss"],
        seconds=row["seconds"],
    )


def _sorted(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value
