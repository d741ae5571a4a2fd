"""LoRA fine-tuning of the cheap tier's model: `accelerate launch -m finetune.lora SPEC.json`.

Low-rank adapters (Hu et al. 2021) on every linear layer learn the answers only; the base stays frozen.
The order of training is planned ahead from the seed, so a step number says where training stands, and a
killed run continues from its checkpoint (beside SPEC.json) to the same weights. The adapter folder is written
under a temporary name, checked, and renamed: it is whole or absent.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from tqdm import tqdm

from cascade.errors import CascadeDistillError, ConfigError, StageError
from finetune import preflight
from finetune.adapter import RECORD, adapter_digest, load_adapter_record
from finetune.checkpoint import Progress, resume, save
from finetune.encode import EncodedExample, encode_example, plan_batches, stop_token_ids
from finetune.training_set import read_training_examples

if TYPE_CHECKING:
    import torch

FAILURE = "training failed: "
CHECKPOINT = "checkpoint.pt"
LOSSES = "loss.jsonl"


class TrainConfig(BaseModel):
    """How to train: what a run's configuration may set."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    epochs: float = Field(default=3.0, gt=0)
    batch_tokens: int = Field(default=8192, ge=1)
    """Rows x longest row of one step, padding included."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_length: int = Field(default=2048, ge=2)
    """Longer examples, and those beyond the model's own context, are left out and counted, never cut."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen base; the adapter and its optimizer are float32. "auto" is bfloat16 where it is quick."""
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
    out: Path
    """The adapter folder to make."""
    token_budget: int | None = Field(default=None, ge=1)
    """Train on at most this many tokens, repeating the data as needed; `epochs` is then not used."""
    seed: int = 0

    @field_validator("base_model", mode="before")
    @classmethod
    def _path_to_text(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value


def train(spec: TrainSpec, work_dir: Path) -> None:
    """Train, check and write the adapter. Raises ConfigError or StageError; see preflight."""
    import torch
    from accelerate import Accelerator

    torch.manual_seed(spec.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # filling new memory is a guard for debugging and costs a sixth of the time
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    if accelerator.num_processes != 1:
        raise ConfigError(f"finetune.lora runs as one process, not {accelerator.num_processes}.")
    tokenizer, model = load_student(spec, accelerator.device)
    encoded, n_too_long = _encode(spec, tokenizer, model)
    steps = plan_batches([len(e.ids) for e in encoded], spec.batch_tokens, spec.epochs, spec.token_budget, spec.seed)
    preflight.check_before(encoded, steps, stop_token_ids(tokenizer, model.generation_config))
    if _is_done(spec, steps):
        print(f"{spec.out} holds this very training already", file=sys.stderr)
        return
    done = _run_steps(spec, work_dir, model, encoded, steps)
    record = {**_record(spec, model, encoded, steps, done), "n_too_long": n_too_long}
    _write_adapter(spec, work_dir, model, encoded[:4], record)


def load_student(spec: TrainSpec, device: Any) -> tuple[Any, Any]:
    """Tokenizer, and frozen base model with a trainable adapter. Raises ConfigError when one is not there."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(spec.base_model, revision=spec.revision)
        base = AutoModelForCausalLM.from_pretrained(spec.base_model, revision=spec.revision, dtype=_dtype(spec, device))
    except (OSError, ValueError) as error:
        raise ConfigError(f"The base model {spec.base_model!r} could not be loaded: {error}") from error
    base.config.use_cache = False
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
    return tokenizer, model.to(device)


def completion_loss(model: Any, batch: Sequence[EncodedExample]) -> torch.Tensor:
    """Sum over the batch of the cross-entropy (nats) of its completion tokens.

    Only the hidden states that predict a completion token reach the output layer, so the (rows, length,
    vocabulary) logits are never made; a hook does it, since scaling and capping of logits differ by model.
    """
    import torch

    device = next(model.parameters()).device
    width = max(len(e.ids) for e in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    attention = torch.zeros_like(ids)
    learnt = torch.zeros_like(ids, dtype=torch.bool)
    for row, example in enumerate(batch):
        n = len(example.ids)
        ids[row, :n] = torch.tensor(example.ids)
        attention[row, :n] = 1
        learnt[row, example.n_prompt : n] = True
    ids, attention, learnt = ids.to(device), attention.to(device), learnt.to(device)
    with _select_before_head(model, learnt[:, 1:]):
        logits = model(input_ids=ids, attention_mask=attention).logits
    targets = ids[:, 1:][learnt[:, 1:]]
    return torch.nn.functional.cross_entropy(logits[0].float(), targets, reduction="sum")


@contextmanager
def _select_before_head(model: Any, predicts: torch.Tensor) -> Iterator[None]:
    """Let only the hidden states at `predicts` (rows, length - 1) through to the output layer, as one row."""

    def select(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0][:, :-1][predicts].unsqueeze(0), *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def accumulate_gradients(model: Any, batch: Sequence[EncodedExample], max_rows: int) -> tuple[float, int]:
    """Gradients of the mean completion-token loss; returns it and the rows that fitted at once.

    Out of memory, the rows at once are halved and the batch begun again: the gradient stays the same. With
    one row at once there is nothing left to halve, and the error goes up.
    """
    import torch

    n_tokens = sum(e.n_completion for e in batch)
    while True:
        try:
            total = 0.0
            for start in range(0, len(batch), max_rows):
                loss = completion_loss(model, batch[start : start + max_rows]) / n_tokens
                loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
        except torch.OutOfMemoryError:
            if min(max_rows, len(batch)) <= 1:
                raise
            max_rows = min(max_rows, len(batch)) // 2
            model.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        else:
            return total, max_rows


def _is_done(spec: TrainSpec, steps: Sequence[list[int]]) -> bool:
    """A run killed between its last step and its manifest is started again with nothing left to do."""
    try:
        load_adapter_record(spec.out)
    except StageError:
        return False
    record = json.loads((spec.out / RECORD).read_text())
    return bool(record["plan"] == preflight.fingerprint(spec, steps))


def _run_steps(
    spec: TrainSpec, work_dir: Path, model: Any, encoded: Sequence[EncodedExample], steps: Sequence[list[int]]
) -> Progress:
    """Do all steps not yet done."""
    import torch

    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    progress = Progress(preflight.fingerprint(spec, steps), weights, optimizer, [], 0.0)
    resume(work_dir / CHECKPOINT, progress)
    _write_losses(work_dir / LOSSES, progress.losses)
    sizes = [sum(len(encoded[row].ids) for row in step) for step in steps]
    first, max_rows = len(progress.losses), max(len(step) for step in steps)
    began = time.perf_counter() - progress.seconds
    model.train()
    with tqdm(total=sum(sizes), initial=sum(sizes[:first]), desc="train", unit="tok", unit_scale=True) as bar:
        for number in range(first, len(steps)):
            torch.manual_seed(spec.seed * 1_000_003 + number)  # dropout is the same after a resume
            for group in optimizer.param_groups:
                group["lr"] = spec.learning_rate * schedule(number, len(steps), spec.warmup)
            loss, max_rows = accumulate_gradients(model, [encoded[row] for row in steps[number]], max_rows)
            torch.nn.utils.clip_grad_norm_(weights.values(), spec.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            progress.losses.append(loss)
            progress.seconds = time.perf_counter() - began
            if (number + 1) % spec.checkpoint_every_steps == 0:
                save(work_dir / CHECKPOINT, progress)
                _write_losses(work_dir / LOSSES, progress.losses)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update(sizes[number])
    _write_losses(work_dir / LOSSES, progress.losses)
    return progress


def schedule(step: int, n_steps: int, warmup: float) -> float:
    """Linear rise over the first `warmup` of the steps, then half a cosine to 0."""
    rise = max(1, round(n_steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, n_steps - rise)))


def _write_losses(path: Path, losses: Sequence[float]) -> None:
    path.write_text("".join(json.dumps({"step": i, "loss": x}) + "\n" for i, x in enumerate(losses)))


def _write_adapter(
    spec: TrainSpec, work_dir: Path, model: Any, samples: Sequence[EncodedExample], record: dict[str, Any]
) -> None:
    model.eval()
    spec.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = spec.out.with_name(spec.out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, safe_serialization=True, save_embedding_layers=False)
    preflight.check_after(temporary, spec, model, samples)
    shutil.copy(work_dir / LOSSES, temporary / LOSSES)
    record = {"digest": adapter_digest(temporary), **record}
    (temporary / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    shutil.rmtree(spec.out, ignore_errors=True)
    temporary.rename(spec.out)
    (work_dir / CHECKPOINT).unlink(missing_ok=True)


def _record(
    spec: TrainSpec, model: Any, encoded: Sequence[EncodedExample], steps: Sequence[list[int]], done: Progress
) -> dict[str, Any]:
    seen = [encoded[row] for step in steps for row in step]
    tail = done.losses[-max(1, len(done.losses) // 10) :]
    return {
        "base_model": spec.base_model,
        "revision": spec.revision,
        "plan": done.plan,
        "rank": model.peft_config["default"].r,
        "train_tokens": sum(len(e.ids) for e in seen),
        "completion_tokens": sum(e.n_completion for e in seen),
        "n_examples": len(encoded),
        "n_steps": len(steps),
        "final_loss": math.fsum(tail) / len(tail),
        "seconds": done.seconds,
        "dtype": str(model.get_base_model().dtype).removeprefix("torch."),
        "spec": spec.model_dump(mode="json"),
    }


def _encode(spec: TrainSpec, tokenizer: Any, model: Any) -> tuple[list[EncodedExample], int]:
    stops = stop_token_ids(tokenizer, model.generation_config)
    examples = read_training_examples(spec.examples)
    encoded = [encode_example(tokenizer, e.id, e.messages, e.answer, stops) for e in examples]
    context = getattr(model.config, "max_position_embeddings", None) or spec.max_length
    fitting = [e for e in encoded if len(e.ids) <= min(spec.max_length, context)]
    return fitting, len(encoded) - len(fitting)


def _dtype(spec: TrainSpec, device: Any) -> Any:
    import torch

    if spec.dtype != "auto":
        return getattr(torch, spec.dtype)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    quick = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if quick else torch.float32


def _die_with_parent() -> None:
    """End this process when standard input closes, which the parent holds open while it lives."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one spec; the last line on stderr says why when it fails (exit status 2, or 1 for a defect)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--watch-stdin" in words:
        words.remove("--watch-stdin")
        _die_with_parent()
    path = Path(words[0])
    try:
        train(TrainSpec.model_validate_json(path.read_text()), path.parent)
    except CascadeDistillError as error:
        print(f"{FAILURE}{error}", file=sys.stderr)
        return 2
    except Exception as error:
        traceback.print_exc()
        print(f"{FAILURE}{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
