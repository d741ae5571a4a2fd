from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from tiny_student import make_student

from cascade.errors import StageError
from finetune.adapter import load_adapter_record
from finetune.lora import CHECKPOINT, TrainSpec, train
from finetune.train import train_adapter
from finetune.training_set import TrainingExample, write_training_examples

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("student"))


def spec_of(base, folder, **changes):
    examples = [
        TrainingExample(
            f"q{i}", ({"role": "user", "content": f"order {i * 37 % 100}"},), f"{i * 37 % 100}.", "flagship"
        )
        for i in range(40)
    ]
    write_training_examples(folder / "examples.jsonl", examples)
    values = {
        "base_model": base,
        "examples": folder / "examples.jsonl",
        "out": folder / "adapter",
        "rank": 4,
        "learning_rate": 0.01,
        "epochs": 30,
        "batch_tokens": 256,
        "dtype": "float32",
        "checkpoint_every_steps": 5,
    }
    return TrainSpec(**(values | changes))


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def test_a_killed_training_goes_on_to_the_same_adapter(base, tmp_path):
    whole, killed = spec_of(base, tmp_path, out=tmp_path / "whole"), spec_of(base, tmp_path)
    (tmp_path / "whole-work").mkdir()
    train(whole, tmp_path / "whole-work")

    work = tmp_path / "work"
    work.mkdir()
    (work / "spec.json").write_text(killed.model_dump_json())
    child = subprocess.Popen(
        [sys.executable, "-m", "finetune.lora", str(work / "spec.json")], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: (work / CHECKPOINT).exists() or child.poll() is not None)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "training was over before it could be killed"
    assert not killed.out.exists()

    resumed = train_adapter(killed, work)
    reference = load_adapter_record(whole.out)
    assert (resumed.train_tokens, resumed.final_loss) == (reference.train_tokens, reference.final_loss)
    assert (killed.out / "loss.jsonl").read_text() == (whole.out / "loss.jsonl").read_text()
    ours, theirs = (load_file(p / "adapter_model.safetensors") for p in (killed.out, whole.out))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert resumed.digest == reference.digest


def test_a_failure_comes_with_the_childs_own_reason(base, tmp_path):
    with pytest.raises(StageError, match=r"status \d+: No training example is left that fits max_length"):
        train_adapter(spec_of(base, tmp_path, max_length=4), tmp_path / "work")
    assert not (tmp_path / "adapter").exists()


def test_training_ends_with_its_parent(base, tmp_path):
    spec = spec_of(base, tmp_path, epochs=100_000)
    (tmp_path / "given.json").write_text(spec.model_dump_json())
    script = (
        "import sys; from pathlib import Path; from finetune.lora import TrainSpec; "
        "from finetune.train import train_adapter; "
        "train_adapter(TrainSpec.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "given.json"), str(tmp_path / "work")],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: (tmp_path / "work" / CHECKPOINT).exists() or parent.poll() is not None)
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) >= 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    for child in alive:
        child.kill()
    assert not alive
