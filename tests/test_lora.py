from __future__ import annotations

import json
import random

import pytest
import torch
from tiny_student import TEMPLATE_THAT_REWRITES, make_student

from cascade.errors import ConfigError, StageError
from finetune import lora
from finetune.adapter import load_adapter_record
from finetune.encode import encode_example, stop_token_ids
from finetune.lora import schedule, train
from finetune.loss import Gradients
from finetune.spec import TrainSpec
from finetune.student import load_student
from finetune.sweep import sweep
from finetune.training_set import TrainingExample, read_training_examples, write_training_examples


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("student"))


def write_examples(path, n=24):
    rows = [
        TrainingExample(
            f"q{i}", ({"role": "user", "content": "x" * (i % 9) + f" send {i % 3}"},), f"{i % 3}!", "flagship"
        )
        for i in range(n)
    ]
    write_training_examples(path, rows)
    return path


def spec_of(base, folder, **changes):
    values = {
        "base_model": base,
        "examples": write_examples(folder / "examples.jsonl"),
        "out": folder / "adapter",
        "rank": 4,
        "alpha": 8,
        "learning_rate": 0.02,
        "epochs": 4,
        "batch_tokens": 256,
        "dtype": "float32",
    }
    return TrainSpec(**(values | changes))


def test_schedule_rises_then_falls():
    rates = [schedule(i, 100, 0.1) for i in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01


def test_trains_on_all_linear_layers_and_learns(base, tmp_path):
    spec = spec_of(base, tmp_path)
    train(spec, tmp_path)
    adapter = load_adapter_record(spec.out)
    losses = [json.loads(line)["loss"] for line in (spec.out / "loss.jsonl").read_text().splitlines()]
    assert adapter.final_loss < 0.5 * losses[0]
    targets = json.loads((spec.out / "adapter_config.json").read_text())["target_modules"]
    assert {name.split(".")[-1] for name in targets} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert not (tmp_path / lora.CHECKPOINT).exists()


def test_trained_student_stops(base, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = spec_of(base, tmp_path, epochs=25, rank=8)
    train(spec, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), spec.out).eval()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "xx send 2"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(out).endswith("!<|end|>")


def test_budget_holds_and_data_repeat_until_it_is_used(base, tmp_path):
    spec = spec_of(base, tmp_path, token_budget=3000, epochs=1)
    train(spec, tmp_path)
    record = json.loads((spec.out / "train.json").read_text())
    assert 2950 < record["train_tokens"] <= 3000
    assert record["n_examples"] == 24
    assert record["completion_tokens"] < record["train_tokens"]


def test_goes_on_from_an_earlier_adapter(base, tmp_path):
    first = spec_of(base, tmp_path, out=tmp_path / "first")
    train(first, tmp_path)
    second = spec_of(base, tmp_path, out=tmp_path / "second", init_adapter=first.out, rank=32, epochs=1)
    train(second, tmp_path)
    start = json.loads((second.out / "loss.jsonl").read_text().splitlines()[0])["loss"]
    assert start < 1.5 * load_adapter_record(first.out).final_loss
    assert load_adapter_record(second.out).rank == 4
    assert load_adapter_record(second.out).digest != load_adapter_record(first.out).digest


def test_resumes_from_the_checkpoint_to_the_same_weights_with_dropout(base, tmp_path):
    whole = spec_of(base, tmp_path, out=tmp_path / "whole", dropout=0.3)
    (tmp_path / "w").mkdir()
    train(whole, tmp_path / "w")
    (tmp_path / "k").mkdir()
    killed = spec_of(base, tmp_path, out=tmp_path / "resumed", dropout=0.3, checkpoint_every_steps=3)

    class Killed(BaseException):
        pass

    def stop(number, n_steps, warmup):
        if number == 8:
            raise Killed
        return schedule(number, n_steps, warmup)

    original, lora.schedule = lora.schedule, stop
    try:
        with pytest.raises(Killed):
            train(killed, tmp_path / "k")
    finally:
        lora.schedule = original
    assert (tmp_path / "k" / lora.CHECKPOINT).exists()
    assert not killed.out.exists()
    train(killed, tmp_path / "k")
    assert load_adapter_record(killed.out).digest == load_adapter_record(whole.out).digest


def test_a_checkpoint_of_another_spec_is_not_used(base, tmp_path, capsys):
    spec = spec_of(base, tmp_path)
    train(spec, tmp_path)
    reference = load_adapter_record(spec.out).digest
    torch.save(
        {"plan": "another", "weights": {}, "optimizer": {}, "losses": [1.0], "seconds": 1.0}, tmp_path / lora.CHECKPOINT
    )
    again = spec.model_copy(update={"out": tmp_path / "again"})
    train(again, tmp_path)
    assert "starting over" in capsys.readouterr().err
    assert load_adapter_record(again.out).digest == reference


def test_a_finished_training_is_not_done_again_but_a_damaged_or_other_one_is(base, tmp_path):
    spec = spec_of(base, tmp_path, epochs=1)
    train(spec, tmp_path)
    weights = spec.out / "adapter_model.safetensors"
    inode = weights.stat().st_ino
    train(spec, tmp_path)
    assert weights.stat().st_ino == inode
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    train(spec, tmp_path)
    assert weights.read_bytes()[-100:] == whole[-100:]
    digest = load_adapter_record(spec.out).digest
    train(spec.model_copy(update={"seed": 1}), tmp_path)
    assert load_adapter_record(spec.out).digest != digest


def test_leaves_out_too_long_examples_and_counts_them(base, tmp_path):
    spec = spec_of(base, tmp_path, max_length=18)
    train(spec, tmp_path)
    record = json.loads((spec.out / "train.json").read_text())
    assert record["n_too_long"] > 0
    assert record["n_examples"] + record["n_too_long"] == 24


def test_leaves_out_what_is_beyond_the_models_context(base, tmp_path):
    spec = spec_of(base, tmp_path, epochs=1)
    long = TrainingExample("long", ({"role": "user", "content": "y" * 600},), "z", "flagship")
    write_training_examples(spec.examples, [*read_training_examples(spec.examples), long])
    train(spec, tmp_path)
    record = json.loads((spec.out / "train.json").read_text())
    assert (record["n_examples"], record["n_too_long"]) == (24, 1)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"max_length": 3}, StageError, "max_length"),
        ({"token_budget": 2}, StageError, "token_budget"),
        ({"learning_rate": 1e30}, StageError, "not finite"),
        ({"base_model": "/nowhere/at/all"}, ConfigError, "/nowhere/at/all"),
    ],
)
def test_says_why_it_cannot_train(base, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        train(spec_of(base, tmp_path, **changes), tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_refuses_a_template_that_moves_the_prompt(tmp_path):
    base = make_student(tmp_path / "base", template=TEMPLATE_THAT_REWRITES)
    with pytest.raises(StageError, match="chat template"):
        train(spec_of(base, tmp_path), tmp_path)


def test_bfloat16_base_trains_a_float32_adapter(base, tmp_path):
    from safetensors.torch import load_file

    spec = spec_of(base, tmp_path, dtype="bfloat16", epochs=1)
    train(spec, tmp_path)
    assert {t.dtype for t in load_file(spec.out / "adapter_model.safetensors").values()} == {torch.float32}
    assert json.loads((spec.out / "train.json").read_text())["dtype"] == "bfloat16"


def test_ends_early_when_the_examples_held_back_no_longer_gain_and_keeps_the_best(base, tmp_path):
    rng = random.Random(0)
    noise = [
        TrainingExample(f"q{i}", ({"role": "user", "content": f"toss {i}"},), f"{rng.randrange(10**6)}", "flagship")
        for i in range(24)
    ]
    spec = spec_of(base, tmp_path, epochs=60, rank=16, validation_share=0.25, patience=2)
    write_training_examples(spec.examples, noise)
    train(spec, tmp_path)
    record = json.loads((spec.out / "train.json").read_text())
    curve = [json.loads(line) for line in (spec.out / "validation.jsonl").read_text().splitlines()]
    assert (record["n_examples"], record["n_validation"]) == (18, 6)
    assert record["n_steps"] < record["n_steps_planned"]
    assert record["validation_loss"] == min(row["loss"] for row in curve)
    assert min(row["loss"] for row in curve[-2:]) > record["validation_loss"]
    tokenizer, model = load_student(spec.model_copy(update={"init_adapter": spec.out}), torch.device("cpu"))
    held = lora._held_back(noise, 0.25, 0)
    stops = stop_token_ids(tokenizer)
    encoded = [encode_example(tokenizer, e.id, e.messages, e.answer, stops) for e in noise if e.id in held]
    assert Gradients(model, 1000).mean_loss(encoded) == pytest.approx(record["validation_loss"], rel=1e-4)


def test_a_sweep_picks_on_what_is_held_back(base, tmp_path):
    seen = []
    spec = spec_of(base, tmp_path, epochs=2, validation_share=0.25)
    trials = sweep(spec, [1e-5, 0.02], [2], tmp_path / "sweep", seen.append)
    assert [t.learning_rate for t in trials] == [0.02, 1e-5]
    assert trials[0].validation_loss < trials[1].validation_loss
    assert len(seen) == 2
    with pytest.raises(ConfigError, match="validation_share"):
        sweep(spec_of(base, tmp_path), [1e-3], [2], tmp_path / "none")
