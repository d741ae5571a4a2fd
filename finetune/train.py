"""Training as a child process, so that its memory, its GPU and its crashes stay its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from cascade.errors import StageError
from finetune.adapter import Adapter, load_adapter_record
from finetune.lora import FAILURE
from finetune.spec import TrainSpec

_ROOT = Path(__file__).resolve().parent.parent
_TAIL = 16_384  # bytes of stderr kept to find the reason of a failure in


def train_adapter(spec: TrainSpec, work_dir: Path) -> Adapter:
    """Run one training in a child process and return the adapter's record.

    `work_dir` holds spec.json, the loss curve and the checkpoint from which a killed run continues; the
    adapter comes to `spec.out`. The child's progress shows on stderr. It ends when this process ends.
    Raises StageError with the child's own reason when it fails.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    spec_path = (work_dir / "spec.json").resolve()
    spec_path.write_text(_absolute(spec).model_dump_json(indent=2) + "\n")
    child = subprocess.Popen(
        _command(spec_path, spec.processes),
        stdin=subprocess.PIPE,  # closes when this process ends, however it ends; the child watches it
        stderr=subprocess.PIPE,
        stdout=sys.stderr.fileno() if _has_fileno() else subprocess.DEVNULL,
        cwd=_ROOT,
        env=_environment(spec.processes),
        start_new_session=True,
    )
    assert child.stderr is not None
    try:
        tail = _stream(child.stderr)
        status = child.wait()
    finally:
        _end(child)
    if status != 0:
        raise StageError(f"Training ended with status {status}: {_reason(tail)}")
    return load_adapter_record(spec.out)


def _command(spec_path: Path, processes: int) -> list[str]:
    """accelerate launch; several CPU processes go through torchrun, for which accelerate would ask for MPI."""
    import torch

    script = ["-m", "finetune.lora", str(spec_path), "--watch-stdin"]
    if processes > 1 and not torch.cuda.is_available():
        return [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            str(processes),
            *script,
        ]
    words = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    words += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    words += ["--num_cpu_threads_per_process", str(max(1, torch.get_num_threads() // processes))]
    words += ["--multi_gpu"] if processes > 1 else []
    words += [] if torch.cuda.is_available() else ["--cpu"]
    return [*words, *script]


def _absolute(spec: TrainSpec) -> TrainSpec:
    """The same spec with whole paths: the child works from the checkout's root."""
    base = Path(spec.base_model)
    changes = {
        "base_model": str(base.resolve()) if base.is_dir() else spec.base_model,
        "examples": spec.examples.resolve(),
        "out": spec.out.resolve(),
        "init_adapter": spec.init_adapter.resolve() if spec.init_adapter else None,
        "heldout": spec.heldout.resolve() if spec.heldout else None,
        "serving_template": spec.serving_template.resolve() if spec.serving_template else None,
    }
    return spec.model_copy(update=changes)


def _environment(processes: int) -> dict[str, str]:
    import torch

    extra = {
        # a thread that waits lets go of its core: a busy machine else trains at a tenth of its speed
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what repeatable matrix products on a GPU ask for
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])),
    }
    if processes > 1 and not torch.cuda.is_available():
        extra |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes))}
    return os.environ | extra


def _stream(source: IO[bytes]) -> bytes:
    tail = b""
    while block := os.read(source.fileno(), 4096):
        sys.stderr.write(block.decode(errors="replace"))
        sys.stderr.flush()
        tail = (tail + block)[-_TAIL:]
    return tail


def _reason(tail: bytes) -> str:
    """The child's own words: its failure line where it wrote one (accelerate's traceback follows it), else
    the last line."""
    lines = [line.strip() for line in tail.decode(errors="replace").replace("\r", "\n").splitlines()]
    lines = [line for line in lines if line]
    own = [line.removeprefix(FAILURE) for line in lines if line.startswith(FAILURE)]
    return (own or lines or ["it wrote no reason"])[-1]


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)  # the session that it leads: accelerate and its worker
        child.wait()
    for pipe in (child.stdin, child.stderr):
        if pipe is not None:
            pipe.close()


def _has_fileno() -> bool:
    try:
        sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return False
    return True
