from __future__ import annotations

import json

import pytest
import torch
from tiny_student import TEMPLATE_THAT_REWRITES, make_student

from cascade.errors import ConfigError, StageError
from finetune import lora
from finetune.adapter import load_adapter_record
from finetune.encode import EncodedExample
from finetune.lora import TrainSpec, accumulate_gradients, completion_loss, load_student, schedule, train
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


def student(base, tmp_path, **changes):
    _, model = load_student(spec_of(base, tmp_path, **changes), torch.device("cpu"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zero at first, when lora_A would have no gradient to compare
            torch.nn.init.normal_(weight, std=0.1)
    return model.eval()


BATCH = [
    EncodedExample("a", (9, 8, 7, 6, 1), 3),
    EncodedExample("b", (9, 5, 4, 3, 2, 11, 12, 1), 2),
    EncodedExample("c", (30, 31, 1), 1),
]


def naive_loss(model, batch):
    """All logits of each example alone, the prompt's targets masked: the plain definition."""
    total = torch.zeros(())
    for example in batch:
        ids = torch.tensor([example.ids])
        labels = ids.clone()
        labels[:, : example.n_prompt] = -100
        logits = model(input_ids=ids).logits
        total = total + torch.nn.functional.cross_entropy(
            logits[0, :-1].float(), labels[0, 1:], ignore_index=-100, reduction="sum"
        )
    return total


def test_selected_loss_equals_the_naive_one_with_its_gradients(base, tmp_path):
    model = student(base, tmp_path)
    naive_loss(model, BATCH).backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    loss = completion_loss(model, BATCH)
    loss.backward()
    assert loss.item() == pytest.approx(naive_loss(model, BATCH).item(), rel=1e-5)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(weight.grad, wanted[name], rtol=1e-4, atol=1e-5)


def test_only_completion_positions_reach_the_output_layer(base, tmp_path):
    model = student(base, tmp_path)
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _m, i, _o: seen.append(tuple(i[0].shape)))
    completion_loss(model, BATCH)
    assert seen == [(1, sum(e.n_completion for e in BATCH), 32)]
    model(input_ids=torch.tensor([[1, 2, 3]]))
    assert seen[-1] == (1, 3, 32), "the selection must not outlive the loss"


def test_examples_of_a_batch_do_not_see_each_other(base, tmp_path):
    model = student(base, tmp_path)
    together = completion_loss(model, BATCH).item()
    assert together == pytest.approx(sum(completion_loss(model, [e]).item() for e in BATCH), rel=1e-5)


def test_out_of_memory_halves_the_rows_and_keeps_the_gradient(base, tmp_path):
    model = student(base, tmp_path)
    whole, rows = accumulate_gradients(model, BATCH, 8)
    wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    assert rows == 8
    model.zero_grad()

    def scarce(_module, _args, kwargs):
        if len(kwargs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("3 rows are too many")

    handle = model.register_forward_pre_hook(scarce, with_kwargs=True)
    split, rows = accumulate_gradients(model, BATCH, 8)
    handle.remove()
    assert rows == 1
    assert split == pytest.approx(whole, rel=1e-5)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(weight.grad, wanted[name], rtol=1e-4, atol=1e-6)


def test_out_of_memory_with_one_row_goes_up(base, tmp_path):
    model = student(base, tmp_path)

    def scarce(_module, _args, _kwargs):
        raise torch.OutOfMemoryError("nothing fits")

    model.register_forward_pre_hook(scarce, with_kwargs=True)
    with pytest.raises(torch.OutOfMemoryError):
        accumulate_gradients(model, BATCH, 4)


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
