from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_student import make_student

from cascade.errors import StageError
from finetune.encode import EncodedExample
from finetune.lora import TrainSpec, load_student
from finetune.preflight import check_after, check_before, fingerprint, reload_adapter
from finetune.training_set import TrainingExample, write_training_examples

GOOD = EncodedExample("good", (5, 6, 7, 1), 2)


def test_good_examples_pass():
    check_before([GOOD], [[0]], {1})


@pytest.mark.parametrize(
    ("examples", "steps", "message"),
    [
        ([], [], "No training example"),
        ([EncodedExample("e", (5, 6, 1), 3)], [[0]], "0 completion"),
        ([EncodedExample("e", (5, 6, 1), 0)], [[0]], "0 prompt"),
        ([GOOD, EncodedExample("e", (5, 6, 7), 1)], [[0, 1]], "'e' ends in token 7"),
        ([GOOD], [], "token_budget"),
    ],
)
def test_bad_examples_are_named(examples, steps, message):
    with pytest.raises(StageError, match=message):
        check_before(examples, steps, {1})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.fixture
def saved(base, tmp_path):
    write_training_examples(
        tmp_path / "e.jsonl", [TrainingExample("q", ({"role": "user", "content": "hi"},), "ho", "flagship")]
    )
    spec = TrainSpec(base_model=base, examples=tmp_path / "e.jsonl", out=tmp_path / "out", rank=2, dtype="float32")
    _, model = load_student(spec, torch.device("cpu"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.05)
    model.eval().save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    return spec, model, tmp_path / "adapter"


def rewrite(folder, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def test_a_sound_adapter_passes(saved):
    spec, model, folder = saved
    check_after(folder, spec, model, [GOOD])


def test_a_missing_key_is_an_error(saved):
    spec, model, folder = saved
    rewrite(folder, lambda t: t.pop(next(iter(t))))
    with pytest.raises(StageError, match="1 keys missing, 0 unexpected"):
        reload_adapter(folder, spec.base_model, None, model)


def test_an_unexpected_key_is_an_error(saved):
    spec, model, folder = saved
    rewrite(
        folder, lambda t: t.update({"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": torch.ones(2, 32)})
    )
    with pytest.raises(StageError, match="0 keys missing, 1 unexpected"):
        check_after(folder, spec, model, [GOOD])


def test_other_weights_than_the_trained_are_an_error(saved):
    spec, model, folder = saved
    rewrite(folder, lambda t: [x.mul_(1.5) for name, x in t.items() if "lora_B" in name])
    with pytest.raises(StageError, match="logits differ"):
        check_after(folder, spec, model, [GOOD])


def test_an_adapter_that_never_moved_is_an_error(saved):
    spec, model, folder = saved
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.zero_()
    with pytest.raises(StageError, match="nothing was learnt"):
        check_after(folder, spec, model, [GOOD])


def test_pickles_are_refused(saved):
    spec, model, folder = saved
    shutil.move(folder / "adapter_model.safetensors", folder / "adapter_model.bin")
    with pytest.raises(StageError, match="no pickles"):
        check_after(folder, spec, model, [GOOD])


def test_fingerprint_follows_data_and_settings_but_not_where_they_lie(saved, tmp_path):
    spec, *_ = saved
    print_of = fingerprint(spec, [[0]])
    shutil.copy(spec.examples, tmp_path / "copy.jsonl")
    moved = spec.model_copy(update={"examples": tmp_path / "copy.jsonl", "out": tmp_path / "elsewhere"})
    assert fingerprint(moved, [[0]]) == print_of
    assert fingerprint(spec.model_copy(update={"rank": 3}), [[0]]) != print_of
    assert fingerprint(spec, [[0], [0]]) != print_of
    spec.examples.write_text(spec.examples.read_text().replace("ho", "hey"))
    assert fingerprint(spec, [[0]]) != print_of
