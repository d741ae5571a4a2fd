"""Checks before and after training that catch what would otherwise fail silently."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.errors import StageError
from finetune.adapter import CONFIG, WEIGHTS
from finetune.encode import EncodedExample

if TYPE_CHECKING:
    from finetune.lora import TrainSpec

_TOLERANCE = 1e-3  # of logits; the same weights over the same base differ by rounding at most


def check_before(encoded: Sequence[EncodedExample], steps: Sequence[list[int]], stop_ids: Collection[int]) -> None:
    """Raise StageError unless every example trains an answer with a stop token, and there are steps."""
    if not encoded:
        raise StageError("No training example is left that fits max_length; raise it or add examples.")
    for example in encoded:
        if example.n_prompt < 1 or example.n_completion < 1:
            raise StageError(
                f"Example {example.id!r} has {example.n_prompt} prompt and {example.n_completion} completion "
                "tokens; both must be there for a loss."
            )
        if example.ids[-1] not in stop_ids:
            raise StageError(
                f"Example {example.id!r} ends in token {example.ids[-1]}, which is no stop token; "
                "the student would never learn to stop."
            )
    if not steps:
        raise StageError("token_budget is smaller than the first example; raise it.")


def check_after(folder: Path, spec: TrainSpec, model: Any, samples: Sequence[EncodedExample]) -> None:
    """Raise StageError unless the saved adapter is what was trained.

    Some lora_B must have moved from zero and none hold NaN; the folder must hold safetensors only; and
    loaded onto a fresh base it must have no missing or unexpected key and give the trained model's logits.
    """
    import torch

    moved = [n for n, p in model.named_parameters() if "lora_B" in n and bool(p.detach().abs().max() > 0)]
    broken = [n for n, p in model.named_parameters() if p.requires_grad and not bool(torch.isfinite(p).all())]
    if broken:
        raise StageError(f"{len(broken)} adapter weights are not finite ({broken[0]}); lower learning_rate.")
    if not moved:
        raise StageError("No lora_B moved from zero: nothing was learnt; check learning_rate and the examples.")
    files = {file.name for file in folder.iterdir()}
    pickled = sorted(name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl")))
    if pickled or not {WEIGHTS, CONFIG} <= files:
        raise StageError(f"The adapter folder {folder} must hold {WEIGHTS} and no pickles, and has {sorted(files)}.")
    reloaded = reload_adapter(folder, spec.base_model, spec.revision, model)
    for example in samples:
        difference = _largest_difference(model, reloaded, example)
        if not difference <= _TOLERANCE:
            raise StageError(f"The saved adapter's logits differ from the trained model's by {difference:.3g}.")


def reload_adapter(folder: Path, base_model: str, revision: str | None, like: Any) -> Any:
    """The adapter on a fresh base like `like`. Raises StageError on a missing or unexpected key."""
    from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    dtype, device = like.get_base_model().dtype, like.device
    base = AutoModelForCausalLM.from_pretrained(base_model, revision=revision, dtype=dtype)
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = True
    model = PeftModel(base, config)
    found = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    missing = [key for key in found.missing_keys if "lora_" in key]
    if missing or found.unexpected_keys:
        raise StageError(
            f"The adapter in {folder} does not fit the base model: {len(missing)} keys missing, "
            f"{len(found.unexpected_keys)} unexpected ({[*missing, *found.unexpected_keys][0]})."
        )
    return model.to(device).eval()


def fingerprint(spec: TrainSpec, steps: Sequence[list[int]]) -> str:
    """Digest of all that decides the trained weights, by which a checkpoint is known to be of this run."""
    settings = spec.model_dump(mode="json", exclude={"out", "examples", "checkpoint_every_steps"})
    data = hashlib.sha256(spec.examples.read_bytes()).hexdigest()
    text = json.dumps([settings, data, steps], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _largest_difference(one: Any, other: Any, example: EncodedExample) -> float:
    import torch

    ids = torch.tensor([example.ids], device=one.device)
    with torch.no_grad():
        return float((one(input_ids=ids).logits.float() - other(input_ids=ids).logits.float()).abs().max())
