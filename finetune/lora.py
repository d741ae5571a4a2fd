"""LoRA fine-tuning of the cheap tier's model: `accelerate launch -m finetune.lora SPEC.json`.

Low-rank adapters (Hu et al. 2021) on every linear layer learn the answers only; the base stays frozen.
The order of training is planned ahead from the seed, so a step number says where training stands, and a
killed run continues from its checkpoint (beside SPEC.json) to the same weights. Several processes share each step's
examples and add up their gradients, so their number changes rounding alone. The adapter folder is written
under a temporary name, checked, and renamed: it is whole or absent.
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cascade.errors import CascadeDistillError, StageError
from finetune import preflight
from finetune.adapter import LOSSES, RECORD, VALIDATION, adapter_digest, load_adapter_record
from finetune.batches import share_of
from finetune.checkpoint import Progress, resume, save
from finetune.encode import EncodedExample, encode_example, plan_batches, stop_token_ids
from finetune.spec import TrainConfig, TrainSpec
from finetune.student import base_digest, check_quantize, load_student
from finetune.training_set import TrainingExample, read_training_examples

FAILURE = "training failed: "
CHECKPOINT = "checkpoint.pt"
_CPU_MICRO_TOKENS = 1024  # pieces whose activations stay in the caches (docs/training.md)


@dataclass(frozen=True, slots=True)
class Data:
    """What one training reads: encoded examples, the plan of steps over them, and those held back."""

    encoded: list[EncodedExample]
    steps: list[list[int]]
    validation: list[EncodedExample]
    n_too_long: int


def train(spec: TrainSpec, work_dir: Path) -> None:
    """Train, check and write the adapter. Raises ConfigError or StageError; see preflight."""
    import torch
    from accelerate import Accelerator

    check_quantize(spec.quantize)
    torch.manual_seed(spec.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # filling new memory is a guard for debugging and costs a sixth of the time
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    tokenizer, model = load_student(spec, accelerator.device)
    found = base_digest(spec.base_model, spec.revision)
    preflight.check_base(spec, found)
    examples = read_training_examples(spec.examples)
    preflight.check_heldout(examples, spec.heldout)
    data = _prepare(spec, tokenizer, model, examples)
    stops = stop_token_ids(tokenizer, model.generation_config)
    preflight.check_before([*data.encoded, *data.validation], data.steps, stops)
    preflight.check_template(tokenizer, examples, data.encoded, spec.serving_template)
    preflight.check_rank(model.peft_config["default"], spec.max_serving_rank)
    if _is_done(spec, data.steps):
        print(f"{spec.out} holds this very training already", file=sys.stderr)
        return
    done = Run(spec, work_dir, model, data, accelerator).steps()
    if accelerator.is_main_process:
        record = {**_record(spec, model, data, done), "base_digest": found}
        _write_adapter(spec, work_dir, model, data.encoded[:4], record)
    accelerator.wait_for_everyone()


class Run:
    """One training under way."""

    def __init__(self, spec: TrainSpec, work_dir: Path, model: Any, data: Data, accelerator: Any) -> None:
        import torch

        from finetune.loss import Gradients

        self.spec, self.work_dir, self.model, self.data, self.accelerator = spec, work_dir, model, data, accelerator
        weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.weights = list(weights.values())
        optimizer = torch.optim.AdamW(self.weights, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True)
        self.gradients = Gradients(model, micro_tokens(spec, accelerator.device.type), spec.layout)
        self.gradients = preflight.check_loss(self.gradients, data.encoded)
        self.progress = Progress(preflight.fingerprint(spec, data.steps), weights, optimizer, [], 0.0)
        resume(work_dir / CHECKPOINT, self.progress)
        self.began = time.perf_counter() - self.progress.seconds

    def steps(self) -> Progress:
        """Do all steps not yet done, or those until the validation loss has stopped falling."""
        spec, progress, steps = self.spec, self.progress, self.data.steps
        sizes = [sum(len(self.data.encoded[row].ids) for row in step) for step in steps]
        first, every = len(progress.losses), max(1, len(steps) // 10)
        self._write_curves()
        self.model.train()
        with self._bar(sum(sizes), sum(sizes[:first])) as bar:
            for number in range(first, len(steps)):
                if self.data.validation and progress.stalled(spec.patience):
                    break
                loss = self._step(number)
                progress.losses.append(loss)
                if self.data.validation and ((number + 1) % every == 0 or number + 1 == len(steps)):
                    progress.validated(number, self._validate())
                progress.seconds = time.perf_counter() - self.began
                if (number + 1) % spec.checkpoint_every_steps == 0 and self.accelerator.is_main_process:
                    save(self.work_dir / CHECKPOINT, progress)
                    self._write_curves()
                bar.set_postfix(loss=f"{loss:.3f}", memory=f"{_memory_gb():.1f}GB", refresh=False)
                bar.update(sizes[number])
        progress.restore_best()
        self._write_curves()
        return progress

    def _validate(self) -> float:
        """The loss on the examples held back, the same number in every process: they must stop together."""
        import torch

        loss = torch.tensor(self.gradients.mean_loss(self.data.validation), device=self.accelerator.device)
        return float(self.accelerator.reduce(loss, reduction="mean"))

    def _step(self, number: int) -> float:
        """One optimizer step; the mean loss (nats) of its completion tokens."""
        import torch

        from finetune.loss import flat_gradient, spread_gradient

        spec, accelerator = self.spec, self.accelerator
        torch.manual_seed(spec.seed * 1_000_003 + number)  # dropout is the same after a resume
        batch = [self.data.encoded[row] for row in self.data.steps[number]]
        n_tokens = sum(e.n_completion for e in batch)
        mine = share_of(batch, accelerator.process_index, accelerator.num_processes)
        loss = self.gradients.accumulate(mine, n_tokens) if mine else 0.0
        if accelerator.num_processes > 1:
            flat = flat_gradient(self.weights)
            flat = accelerator.reduce(torch.cat([flat, flat.new_tensor([loss])]), reduction="sum")
            loss = float(flat[-1])
            spread_gradient(flat[:-1], self.weights)
        torch.nn.utils.clip_grad_norm_(self.weights, spec.max_grad_norm)
        for group in self.progress.optimizer.param_groups:
            group["lr"] = spec.learning_rate * schedule(number, len(self.data.steps), spec.warmup)
        self.progress.optimizer.step()
        self.progress.optimizer.zero_grad(set_to_none=True)
        return loss

    def _bar(self, total: int, done: int) -> Any:
        main = self.accelerator.is_main_process
        return tqdm(total=total, initial=done, desc="train", unit="tok", unit_scale=True, disable=not main)

    def _write_curves(self) -> None:
        if not self.accelerator.is_main_process:
            return
        losses = [{"step": i, "loss": x} for i, x in enumerate(self.progress.losses)]
        validation = [{"step": i, "loss": x} for i, x in self.progress.validation]
        for name, rows in ((LOSSES, losses), (VALIDATION, validation)):
            if rows or name == LOSSES:
                (self.work_dir / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def micro_tokens(spec: TrainConfig, device: str) -> int:
    """Tokens computed at once, before memory says otherwise."""
    if spec.micro_tokens is not None:
        return spec.micro_tokens
    return spec.batch_tokens if device == "cuda" else min(spec.batch_tokens, _CPU_MICRO_TOKENS)


def schedule(step: int, n_steps: int, warmup: float) -> float:
    """Linear rise over the first `warmup` of the steps, then half a cosine to 0."""
    rise = max(1, round(n_steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, n_steps - rise)))


def _is_done(spec: TrainSpec, steps: Sequence[list[int]]) -> bool:
    """A run killed between its last step and its manifest is started again with nothing left to do."""
    try:
        load_adapter_record(spec.out)
    except StageError:
        return False
    record = json.loads((spec.out / RECORD).read_text())
    return bool(record["plan"] == preflight.fingerprint(spec, steps))


def _write_adapter(
    spec: TrainSpec, work_dir: Path, model: Any, samples: Sequence[EncodedExample], record: dict[str, Any]
) -> None:
    model.eval()
    spec.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = spec.out.with_name(spec.out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, safe_serialization=True, save_embedding_layers=False)
    preflight.check_after(temporary, spec, model, samples)
    for curve in (LOSSES, VALIDATION):
        if (work_dir / curve).is_file():
            shutil.copy(work_dir / curve, temporary / curve)
    record = {"digest": adapter_digest(temporary), **record}
    (temporary / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    shutil.rmtree(spec.out, ignore_errors=True)
    temporary.rename(spec.out)
    (work_dir / CHECKPOINT).unlink(missing_ok=True)


def _record(spec: TrainSpec, model: Any, data: Data, done: Progress) -> dict[str, Any]:
    seen = [data.encoded[row] for step in data.steps[: len(done.losses)] for row in step]
    tail = done.losses[-max(1, len(done.losses) // 10) :]
    return {
        "base_model": spec.base_model,
        "revision": spec.revision,
        "plan": done.plan,
        "rank": model.peft_config["default"].r,
        "train_tokens": sum(len(e.ids) for e in seen),
        "completion_tokens": sum(e.n_completion for e in seen),
        "n_examples": len(data.encoded),
        "n_validation": len(data.validation),
        "n_too_long": data.n_too_long,
        "n_steps": len(done.losses),
        "n_steps_planned": len(data.steps),
        "final_loss": math.fsum(tail) / len(tail),
        "validation_loss": min((loss for _, loss in done.validation), default=None),
        "seconds": done.seconds,
        "dtype": str(model.get_base_model().dtype).removeprefix("torch."),
        "spec": spec.model_dump(mode="json"),
    }


def _prepare(spec: TrainSpec, tokenizer: Any, model: Any, examples: Sequence[TrainingExample]) -> Data:
    stops = stop_token_ids(tokenizer, model.generation_config)
    held = _held_back(examples, spec.validation_share, spec.seed)
    encoded = [encode_example(tokenizer, e.id, e.messages, e.answer, stops) for e in examples]
    context = getattr(model.config, "max_position_embeddings", None) or spec.max_length
    fitting = [e for e in encoded if len(e.ids) <= min(spec.max_length, context)]
    training = [e for e in fitting if e.id not in held]
    lengths = [len(e.ids) for e in training]
    steps = plan_batches(lengths, spec.batch_tokens, spec.epochs, spec.token_budget, spec.seed)
    return Data(training, steps, [e for e in fitting if e.id in held], len(encoded) - len(fitting))


def _held_back(examples: Sequence[TrainingExample], share: float, seed: int) -> set[str]:
    """Ids of a random part of the flagship's answers: replay is what the student knows, and would always look well."""
    taught = sorted(e.id for e in examples if e.source == "flagship")
    return set(random.Random(f"validation:{seed}").sample(taught, round(share * len(taught))))


def _memory_gb() -> float:
    """The most memory held so far: the GPU's where there is one, else the process'."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


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
