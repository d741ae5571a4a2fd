"""How to train: the settings that a run's configuration may hold, and the file that one training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class TrainConfig(BaseModel):
    """How to train: what a run's configuration may set.

    Adapters on all linear layers at about ten times the rate of full fine-tuning: "LoRA Without Regret" (Schulman et
    al. 2025, Thinking Machines), where alpha 32 over the rank keeps the best rate the same at every rank.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    rank: int = Field(default=16, ge=1)
    """16 holds a targeted set of thousands of answers; too small a rank shows as a loss that stops falling."""
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    """Ten times 2e-5, a usual rate of full fine-tuning at 1 to 8 B; small models take more. See `sweep`."""
    epochs: float = Field(default=3.0, gt=0)
    batch_tokens: int = Field(default=8192, ge=1)
    """Rows x longest row of one optimizer step, padding included."""
    micro_tokens: int | None = Field(default=None, ge=1)
    """Rows x longest row computed at once; None: batch_tokens on a GPU, 1,024 on a CPU. Halved without memory."""
    layout: Literal["auto", "fast", "packed", "padded"] = "auto"
    """How a step is laid out, see finetune.loss; the result is the same."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_length: int = Field(default=2048, ge=2)
    """Longer examples, and those beyond the model's own context, are left out and counted, never cut."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen base; the adapter and its optimizer are float32. "auto" is bfloat16 where it is quick."""
    quantize: Literal["none", "nf4"] = "none"
    """nf4 keeps the base in 4 bits (QLoRA): for a GPU with little memory, with bitsandbytes installed."""
    processes: int = Field(default=1, ge=1)
    """Processes that share each step: GPUs of this machine, or CPU processes."""
    validation_share: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the flagship's answers held back; training ends early when the loss on them no longer falls, and keeps
    the best weights. 0 trains on all of them to the end."""
    patience: int = Field(default=3, ge=1)
    """Validations (about ten to a training) without a better loss before it ends."""
    max_serving_rank: int = Field(default=64, ge=1)
    """--max-lora-rank of the server; vLLM refuses an adapter above it."""
    serving_template: Path | None = None
    """Chat template file of the server, when it is not the tokenizer's own: it must give the same prompts."""
    base_digest: str | None = None
    """Pin of the base model's files, as train.json records it; another base is then refused."""
    checkpoint_every_steps: int = Field(default=50, ge=1)


class TrainSpec(TrainConfig):
    """One training run, complete: the file that finetune.lora is started with."""

    base_model: str
    """A folder, or a name on the model hub."""
    revision: str | None = None
    init_adapter: Path | None = None
    """An earlier adapter to go on from; its own rank, alpha and layers then hold."""
    examples: Path
    """JSONL of TrainingExample."""
    heldout: Path | None = None
    """Keys of every held-out query, as training_set.write_heldout_keys writes them; no example may be among them."""
    out: Path
    """The adapter folder to make."""
    token_budget: int | None = Field(default=None, ge=1)
    """Train on at most this many tokens, repeating the data as needed; `epochs` is then not used."""
    seed: int = 0

    @field_validator("base_model", mode="before")
    @classmethod
    def _path_to_text(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value
