from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tiny_student import make_student

from cascade.errors import ConfigError, StageError
from finetune.adapter import load_adapter_record
from finetune.lora import CHECKPOINT, train
from finetune.spec import TrainSpec
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


def run_alone(spec, work):
    work.mkdir(exist_ok=True)
    (work / "spec.json").write_text(spec.model_dump_json())
    return subprocess.Popen(
        [sys.executable, "-m", "finetune.lora", str(work / "spec.json")], cwd=ROOT, stderr=subprocess.DEVNULL
    )


def n_done(work):
    path = work / "loss.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def weights_of(adapter):
    return load_file(adapter / "adapter_model.safetensors")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_training_killed_at_a_random_step_goes_on_to_the_same_adapter(base, tmp_path, seed):
    rng = random.Random(seed)
    more = {"seed": seed, "dropout": 0.2 * (seed % 2), "checkpoint_every_steps": rng.randint(2, 9)}
    whole, killed = spec_of(base, tmp_path, out=tmp_path / "whole", **more), spec_of(base, tmp_path, **more)
    # Every training in a fresh process, as it is run: what other tests load must not change a rounding.
    assert run_alone(whole, tmp_path / "whole-work").wait() == 0
    n_steps = len((whole.out / "loss.jsonl").read_text().splitlines())

    work = tmp_path / "work"
    child, at_least = run_alone(killed, work), rng.randint(1, n_steps // 2)
    wait_for(lambda: n_done(work) >= at_least or child.poll() is not None)
    time.sleep(rng.uniform(0, 0.05))  # somewhere within the steps that follow
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "training was over before it could be killed"
    assert not killed.out.exists()
    assert (work / CHECKPOINT).exists()

    if seed == 0:
        resumed = train_adapter(killed, work)
    else:
        assert run_alone(killed, work).wait() == 0
        resumed = load_adapter_record(killed.out)
    reference = load_adapter_record(whole.out)
    assert (resumed.train_tokens, resumed.completion_tokens) == (reference.train_tokens, reference.completion_tokens)
    assert resumed.final_loss == pytest.approx(reference.final_loss, rel=1e-5)
    ours, theirs = weights_of(killed.out), weights_of(whole.out)
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) <= 1e-5


def test_two_processes_give_the_loss_curve_of_one(base, tmp_path):
    one = spec_of(base, tmp_path, out=tmp_path / "one", epochs=4)
    two = spec_of(base, tmp_path, out=tmp_path / "two", epochs=4, processes=2)
    (tmp_path / "work").mkdir()
    train(one, tmp_path / "work")
    record = train_adapter(two, tmp_path / "work-two")
    curves = [
        [json.loads(line)["loss"] for line in (s.out / "loss.jsonl").read_text().splitlines()] for s in (one, two)
    ]
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    assert curves[0][-1] < 0.8 * curves[0][0]
    assert record.train_tokens == load_adapter_record(one.out).train_tokens
    ours, theirs = weights_of(two.out), weights_of(one.out)
    assert all((ours[name] - theirs[name]).norm() <= 1e-2 * theirs[name].norm() for name in theirs)


def test_a_four_bit_base_without_a_gpu_is_refused_in_one_sentence(base, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    with pytest.raises(ConfigError, match=r"^quantize: nf4 \(QLoRA\) needs a CUDA GPU and none is here"):
        train(spec_of(base, tmp_path, quantize="nf4"), tmp_path)


def test_a_failure_comes_with_the_childs_own_reason(base, tmp_path):
    with pytest.raises(StageError, match=r"status \d+: No training example is left that fits max_length"):
        train_adapter(spec_of(base, tmp_path, max_length=4), tmp_path / "work")
    assert not (tmp_path / "adapter").exists()


def test_training_ends_with_its_parent(base, tmp_path):
    spec = spec_of(base, tmp_path, epochs=100_000)
    (tmp_path / "given.json").write_text(spec.model_dump_json())
    script = (
        "import sys; from pathlib import Path; from finetune.spec import TrainSpec; "
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
