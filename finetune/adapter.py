"""A trained adapter folder and its record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.errors import StageError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
RECORD = "train.json"
LOSSES = "loss.jsonl"
VALIDATION = "validation.jsonl"


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
    """SHA-256 over what the adapter computes: its scale, and each tensor's name, type, shape and bytes.

    The order of tensors and metadata in the file, and the base model's path, are no part of it: they differ
    between runs that give the same weights. Raises StageError when the folder is no whole adapter.
    """
    weights, config = path / WEIGHTS, path / CONFIG
    if not weights.is_file() or not config.is_file():
        raise StageError(f"{path} is no adapter folder: it needs {WEIGHTS} and {CONFIG}.")
    settings = json.loads(config.read_text())
    scale = [settings.get("r"), float(settings.get("lora_alpha") or 0), bool(settings.get("use_rslora"))]
    digest = hashlib.sha256(json.dumps([*scale, settings.get("alpha_pattern") or {}], sort_keys=True).encode())
    for header, content in _tensors(weights):
        digest.update(json.dumps(header).encode())
        digest.update(content)
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


def _tensors(path: Path) -> Iterator[tuple[list[Any], bytes]]:
    """([name, type, shape], bytes) of each tensor of a safetensors file, by name."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8:start])
        rows = sorted((name, row) for name, row in header.items() if name != "__metadata__")
        parts = [([name, row["dtype"], row["shape"]], *row["data_offsets"]) for name, row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(f"{path} is no safetensors file ({error}); train again.") from error
    if len(content) != start + max((end for _, _, end in parts), default=0):
        raise StageError(f"{path} is no whole safetensors file: its tensors end early; train again.")
    for shape, first, end in parts:
        yield shape, content[start + first : start + end]
