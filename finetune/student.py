"""The student as it is trained: frozen base, adapter, and the digest by which the base is known again."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.errors import ConfigError

if TYPE_CHECKING:
    from finetune.spec import TrainSpec

_OF_THE_BASE = ("*.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def load_student(spec: TrainSpec, device: Any) -> tuple[Any, Any]:
    """Tokenizer, and frozen base model with a trainable adapter. Raises ConfigError when one is not there."""
    from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoTokenizer

    base = load_base(spec, device)
    tokenizer = AutoTokenizer.from_pretrained(spec.base_model, revision=spec.revision)
    base.config.use_cache = False
    if spec.quantize == "nf4":
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    if spec.init_adapter is not None:
        model = PeftModel.from_pretrained(base, spec.init_adapter, is_trainable=True)
    else:
        lora = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha,
            lora_dropout=spec.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(base, lora)
    return tokenizer, model if spec.quantize == "nf4" else model.to(device)


def load_base(spec: TrainSpec, device: Any) -> Any:
    """The base model alone, in the number format of training; no code that ships with a model is run."""
    from transformers import AutoModelForCausalLM

    more: dict[str, Any] = {}
    if spec.quantize == "nf4":
        more = {"quantization_config": _nf4(), "device_map": {"": device}}
    elif device.type == "cuda" and find_spec("flash_attn"):
        more = {"attn_implementation": "flash_attention_2"}
    try:
        return AutoModelForCausalLM.from_pretrained(
            spec.base_model, revision=spec.revision, dtype=number_format(spec.dtype, device), **more
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"The base model {spec.base_model!r} could not be loaded: {error}") from error


def check_quantize(quantize: str) -> None:
    """Raise ConfigError when a 4-bit base is asked for where none can be."""
    import torch

    if quantize != "nf4":
        return
    if not torch.cuda.is_available():
        raise ConfigError("quantize: nf4 (QLoRA) needs a CUDA GPU and none is here; set quantize: none.")
    if find_spec("bitsandbytes") is None:
        raise ConfigError("quantize: nf4 (QLoRA) needs bitsandbytes; pip install bitsandbytes, or set quantize: none.")


def _nf4() -> Any:
    """4-bit NormalFloat with double quantisation, products in bfloat16 (QLoRA, Dettmers et al. 2023)."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def number_format(wanted: str, device: Any) -> Any:
    """The torch type of the base: "auto" is bfloat16 where its matrix products are quick."""
    import torch

    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    quick = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if quick else torch.float32


def base_digest(base_model: str, revision: str | None) -> str:
    """SHA-256 over the base model's weights, configuration, tokenizer and template: what a revision stands for."""
    digest = hashlib.sha256()
    folder = _folder_of(base_model, revision)
    files = sorted({path for pattern in _OF_THE_BASE for path in folder.glob(pattern)}, key=lambda p: p.name)
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _folder_of(base_model: str, revision: str | None) -> Path:
    """Where the base lies: the folder itself, or the hub's snapshot that was just loaded."""
    from transformers.utils import cached_file

    if Path(base_model).is_dir():
        return Path(base_model)
    found = cached_file(base_model, "config.json", revision=revision)
    if found is None:
        raise ConfigError(f"The base model {base_model!r} has no config.json; check the name.")
    return Path(found).parent
