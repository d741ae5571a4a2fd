"""One trainer on one data set, alone in its process: `python -m benchmarks.trainers JOB.json` prints one JSON line.

All of them start from the same adapter on the same base, in the same number format, with the same AdamW, schedule and
clipping, and (except where a setting says otherwise) take the same examples in each step.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LEARNING_RATE, WARMUP = 5e-4, 0.1


@dataclass(frozen=True)
class Job:
    """What a worker is to do."""

    system: str
    """ours, ours-in-Trainer, ours-padded, ours-packed, trainer, or trl and its setting: trl:SETTING."""
    base: str
    adapter: str
    rows: str
    """JSON list of [token ids, prompt length], in the order of training."""
    per_step: int
    device: str
    dtype: str


@dataclass(frozen=True)
class Result:
    """What it took. Loss per step is the mean over completion tokens (nats)."""

    system: str
    seconds: float
    cpu_seconds: float
    """Of all threads: what is left of the time when other work on the machine is taken out."""
    completion_tokens: int
    tokens: int
    peak_mb: float
    losses: list[float]


def read_rows(job: Job) -> list[tuple[list[int], int]]:
    """(token ids, prompt length) of each example."""
    return [(ids, n) for ids, n in json.loads(Path(job.rows).read_text())]


def run(job: Job) -> Result:
    """Train once over the rows; time and memory are those of the steps alone."""
    rows = read_rows(job)
    start: dict[str, float] = {}

    def begin() -> None:
        start["mb"] = reset_peak(job.device)
        start["cpu"] = time.process_time()
        start["at"] = now(job.device)

    losses = SYSTEMS[job.system.split(":", maxsplit=1)[0]](job, rows, begin)
    seconds, cpu = now(job.device) - start["at"], time.process_time() - start["cpu"]
    n_completion, n = sum(len(ids) - n for ids, n in rows), sum(len(ids) for ids, _ in rows)
    return Result(job.system, seconds, cpu, n_completion, n, peak(job.device) - start["mb"], losses)


def ours(job: Job, rows: Sequence[tuple[list[int], int]], begin: Callable[[], None]) -> list[float]:
    """finetune.lora's own loop, preflight of the loss and all."""
    from accelerate import Accelerator

    from finetune.encode import EncodedExample
    from finetune.lora import Data, Run
    from finetune.spec import TrainSpec
    from finetune.student import load_student

    layout = job.system.removeprefix("ours").strip("-") or "auto"
    folder = Path(tempfile.mkdtemp())
    encoded = [EncodedExample(str(i), tuple(ids), n) for i, (ids, n) in enumerate(rows)]
    steps = [list(range(i, min(i + job.per_step, len(rows)))) for i in range(0, len(rows), job.per_step)]
    spec = TrainSpec(
        base_model=job.base,
        init_adapter=Path(job.adapter),
        examples=Path(job.rows),
        out=folder / "out",
        learning_rate=LEARNING_RATE,
        warmup=WARMUP,
        dtype=job.dtype,
        layout=layout,
        batch_tokens=max(len(ids) for ids, _ in rows) * job.per_step,
        checkpoint_every_steps=10_000,
    )
    accelerator = Accelerator(cpu=job.device == "cpu")
    _, model = load_student(spec, accelerator.device)
    run = Run(spec, folder, model, Data(encoded, steps, [], 0), accelerator)
    begin()
    return run.steps().losses


def ours_in_trainer(job: Job, rows: Sequence[tuple[list[int], int]], begin: Callable[[], None]) -> list[float]:
    """Our loss inside transformers' Trainer: what its loop costs."""
    import torch
    from transformers import Trainer

    from finetune.encode import EncodedExample
    from finetune.loss import Gradients

    encoded = [EncodedExample(str(i), tuple(ids), n) for i, (ids, n) in enumerate(rows)]
    model = adapted(job)
    gradients = Gradients(model, 1024 if job.device == "cpu" else 1 << 30)
    gradients.refresh()
    gradients.loss(encoded[:2]).backward()  # type: ignore[no-untyped-call]
    model.zero_grad()

    class Ours(Trainer):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
            batch = inputs["rows"]
            value = gradients.accumulate(batch, sum(e.n_completion for e in batch))
            return torch.tensor(value, device=model.device)

    settings = arguments(job, remove_unused_columns=False, train_sampling_strategy="sequential")
    trainer = Ours(
        model,
        settings,
        train_dataset=[{"row": e} for e in encoded],
        data_collator=lambda batch: {"rows": [item["row"] for item in batch]},
        optimizers=optimizer_of(model, -(-len(rows) // job.per_step)),
    )
    return fit(trainer, begin)


def trainer(job: Job, rows: Sequence[tuple[list[int], int]], begin: Callable[[], None]) -> list[float]:
    """transformers' Trainer as people use it: rows padded to the batch's longest, labels of -100 before the answer."""
    from transformers import Trainer

    model = adapted(job)
    warm_up(model, rows)
    trainer = Trainer(
        model,
        arguments(job, train_sampling_strategy="sequential"),
        train_dataset=[
            {"input_ids": ids, "labels": [-100] * n + ids[n:], "attention_mask": [1] * len(ids)} for ids, n in rows
        ],
        data_collator=pad,
        optimizers=optimizer_of(model, -(-len(rows) // job.per_step)),
    )
    return fit(trainer, begin)


def trl(job: Job, rows: Sequence[tuple[list[int], int]], begin: Callable[[], None]) -> list[float]:
    """TRL's SFTTrainer; the setting after the colon is one of padded, accumulate-N, grouped-N, flat, packed-LENGTH."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    setting = job.system.split(":", maxsplit=1)[1]
    name, _, number = setting.partition("-")
    more: dict[str, Any] = {"train_sampling_strategy": "sequential"}
    n_steps = -(-len(rows) // job.per_step)
    if name in ("accumulate", "grouped"):
        more |= {"per_device_train_batch_size": int(number), "gradient_accumulation_steps": job.per_step // int(number)}
    if name == "grouped":
        more["train_sampling_strategy"] = "group_by_length"
    if name == "flat":
        more |= {"padding_free": True, "max_length": None}
    if name == "packed":
        mean = sum(len(ids) for ids, _ in rows) / len(rows)
        per_step = max(1, round(job.per_step * mean / int(number)))
        more |= {"packing": True, "max_length": int(number), "per_device_train_batch_size": per_step}
    values = {"max_length": max(len(ids) for ids, _ in rows), "completion_only_loss": True, **more}
    settings = arguments(job, kind=SFTConfig, **values)
    data = Dataset.from_list([{"input_ids": ids, "completion_mask": [0] * n + [1] * (len(ids) - n)} for ids, n in rows])
    from transformers import AutoTokenizer

    model = adapted(job)
    trainer = SFTTrainer(
        model,
        settings,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(job.base),
        optimizers=optimizer_of(model, n_steps),
    )
    warm_up(model, rows)
    return fit(trainer, begin)


SYSTEMS: dict[str, Callable[..., list[float]]] = {
    "ours": ours,
    "ours-padded": ours,
    "ours-packed": ours,
    "ours-in-Trainer": ours_in_trainer,
    "trainer": trainer,
    "trl": trl,
}


def adapted(job: Job) -> Any:
    """The base with the common adapter, ready to train."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(job.base, dtype=getattr(torch, job.dtype))
    base.config.use_cache = False
    return PeftModel.from_pretrained(base, job.adapter, is_trainable=True).to(job.device)


def arguments(job: Job, kind: Any = None, **values: Any) -> Any:
    """TrainingArguments or a subclass that log each step's loss and nothing else."""
    from transformers import TrainingArguments

    common = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": job.per_step,
        "num_train_epochs": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "bf16": job.dtype == "bfloat16",
        "max_grad_norm": 1.0,
        "use_cpu": job.device == "cpu",
        "dataloader_pin_memory": False,
        "seed": 0,
    }
    return (kind or TrainingArguments)(**(common | values))


def optimizer_of(model: Any, n_steps: int) -> tuple[Any, Any]:
    """The AdamW and the schedule of finetune.lora."""
    import torch

    from finetune.lora import schedule

    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: schedule(min(i, n_steps), n_steps, WARMUP))


def fit(trainer: Any, begin: Callable[[], None]) -> list[float]:
    """Train; the losses that were logged."""
    from transformers import TrainerCallback

    class Begin(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            begin()

    trainer.add_callback(Begin())
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def pad(batch: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """Rows of one batch, padded on the right to its longest."""
    import torch

    width = max(len(row["input_ids"]) for row in batch)
    fill = {"input_ids": 0, "labels": -100, "attention_mask": 0}
    return {
        name: torch.tensor([row[name] + [value] * (width - len(row[name])) for row in batch])
        for name, value in fill.items()
    }


def warm_up(model: Any, rows: Sequence[tuple[list[int], int]]) -> None:
    """First calls load kernels and reserve memory; none of it is timed for anyone."""
    import torch

    ids = torch.tensor([rows[0][0]], device=model.device)
    model.train()
    model(input_ids=ids).logits.float().sum().backward()
    model.zero_grad()


def now(device: str) -> float:
    """Seconds, once the device has done what it was given."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def reset_peak(device: str) -> float:
    """Begin to measure memory anew; the MB in use now."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return 0.0
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark falls to what is resident
    return _status("VmRSS")


def peak(device: str) -> float:
    """The most MB in use since `reset_peak`."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    return _status("VmHWM")


def _status(name: str) -> float:
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(name))
    return int(line.split()[1]) / 1024


def main() -> None:
    """Run the job named on the command line; the last line on stdout is the result."""
    warnings.filterwarnings("ignore")
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(asdict(run(job))))


if __name__ == "__main__":
    main()
