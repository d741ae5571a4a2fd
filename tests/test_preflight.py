from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_student import TEMPLATE, make_student, make_tokenizer

from cascade.errors import ConfigError, StageError
from finetune import loss
from finetune.encode import EncodedExample, encode_example, stop_token_ids
from finetune.lora import train
from finetune.loss import Gradients
from finetune.preflight import (
    check_after,
    check_before,
    check_heldout,
    check_loss,
    check_template,
    find_fault,
    fingerprint,
    reload_adapter,
)
from finetune.spec import TrainSpec
from finetune.student import base_digest, load_student
from finetune.training_set import TrainingExample, write_heldout_keys, write_training_examples

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
        reload_adapter(folder, spec, model)


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
    with pytest.raises(StageError, match="no pickles and no code"):
        check_after(folder, spec, model, [GOOD])


EXAMPLES = [
    EncodedExample("a", (9, 8, 7, 6, 40, 41, 1), 3),
    EncodedExample("b", (50, 51, 52, 53, 54, 60, 61, 62, 1), 4),
    EncodedExample("c", (30, 31, 32, 33, 1), 2),
]


@pytest.mark.parametrize("layout", ["padded", "packed", "fast"])
def test_a_true_loss_is_kept_and_leaves_no_trace(saved, layout):
    _, model, _ = saved
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    gradients = Gradients(model, 100, layout)
    assert check_loss(gradients, EXAMPLES) is gradients
    assert all(p.equal(before[n]) and p.grad is None for n, p in model.named_parameters())


class OnesMask(Gradients):
    """Packs, and gives a mask of ones: transformers then no longer tells the examples apart."""

    def __init__(self, model, micro_tokens, layout="packed"):
        super().__init__(model, micro_tokens, layout)

    def loss(self, batch):
        if self.layout != "packed":
            return super().loss(batch)
        ids = torch.tensor([[t for e in batch for t in e.ids]])
        learnt = torch.tensor([[c >= e.n_prompt for e in batch for c in range(len(e.ids))]])
        positions = torch.tensor([[c for e in batch for c in range(len(e.ids))]])
        mask = torch.ones_like(ids)
        return loss._loss_of(self.model, ids, learnt, position_ids=positions, attention_mask=mask)


def test_fault_all_ones_mask(saved, capsys):
    """Examples that see each other: the packing leak."""
    _, model, _ = saved
    leaking = OnesMask(model, 100)
    assert "they see each other" in find_fault(leaking, EXAMPLES)
    assert check_loss(leaking, EXAMPLES).layout == "padded"
    assert "packed is not used" in capsys.readouterr().err


class PromptToo(Gradients):
    def loss(self, batch):
        return super().loss([EncodedExample(e.id, e.ids, 1) for e in batch])


def test_fault_a_mask_that_learns_the_prompt_too(saved):
    _, model, _ = saved
    with pytest.raises(StageError, match="other tokens count"):
        check_loss(PromptToo(model, 100, "padded"), EXAMPLES)


class HalfGradient(Gradients):
    def loss(self, batch):
        whole = super().loss(batch)
        return whole.detach() / 2 + whole / 2


def test_fault_a_right_loss_with_a_wrong_gradient(saved):
    _, model, _ = saved
    with pytest.raises(StageError, match="gradient differs"):
        check_loss(HalfGradient(model, 100, "padded"), EXAMPLES)


def test_fault_empty_mask():
    with pytest.raises(StageError, match="0 completion"):
        check_before([GOOD, EncodedExample("e", (5, 6, 1), 3)], [[0, 1]], {1})


def test_fault_untrained_stop_token():
    with pytest.raises(StageError, match="never learn to stop"):
        check_before([GOOD, EncodedExample("e", (5, 6, 7), 1)], [[0, 1]], {1})


def asked(text, name="q"):
    return TrainingExample(name, ({"role": "user", "content": text},), "ho", "flagship")


def test_fault_template_mismatch(tmp_path):
    tokenizer = make_tokenizer()
    example = asked("hi")
    encoded = [encode_example(tokenizer, "q", example.messages, "ho", stop_token_ids(tokenizer))]
    check_template(tokenizer, [example], encoded, None)
    (tmp_path / "same.jinja").write_text(TEMPLATE)
    check_template(tokenizer, [example], encoded, tmp_path / "same.jinja")
    (tmp_path / "other.jinja").write_text(TEMPLATE.replace("<|assistant|>{%", "<|assistant|> {%"))
    with pytest.raises(StageError, match="'q' is served as 7 tokens"):
        check_template(tokenizer, [example], encoded, tmp_path / "other.jinja")


def test_fault_missing_adapter_key(saved):
    spec, model, folder = saved
    rewrite(folder, lambda t: t.pop(next(iter(t))))
    with pytest.raises(StageError, match="1 keys missing"):
        check_after(folder, spec, model, [GOOD])


def test_fault_nan_weight(saved):
    spec, model, folder = saved
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_A" in n)[0, 0] = float("nan")
    with pytest.raises(StageError, match="1 adapter weights are not finite"):
        check_after(folder, spec, model, [GOOD])


def test_fault_nan_weight_in_the_file_alone(saved):
    spec, model, folder = saved
    rewrite(folder, lambda t: next(iter(t.values())).fill_(float("nan")))
    with pytest.raises(StageError, match="logits differ"):
        check_after(folder, spec, model, [GOOD])


def test_fault_wrong_base_revision(base, saved, tmp_path):
    spec, *_ = saved
    found = base_digest(str(base), None)
    other = tmp_path / "moved-on"
    shutil.copytree(base, other)
    assert base_digest(str(other), None) == found
    tensors = load_file(other / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    pinned = spec.model_copy(update={"base_digest": found, "base_model": str(other)})
    with pytest.raises(ConfigError, match=f"base_digest says {found[:12]}"):
        train(pinned, tmp_path)
    (tmp_path / "adapter" / "train.json").write_text(f'{{"base_digest": "{found}"}}')
    later = spec.model_copy(update={"init_adapter": tmp_path / "adapter", "base_model": str(other)})
    with pytest.raises(ConfigError, match="init_adapter says"):
        train(later, tmp_path)


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.pt", "modeling.py", "tokens.pkl"])
def test_fault_unsafe_file(saved, name):
    spec, model, folder = saved
    (folder / name).write_bytes(b"x")
    with pytest.raises(StageError, match="no pickles and no code"):
        check_after(folder, spec, model, [GOOD])


def test_fault_remote_code(saved):
    spec, model, folder = saved
    config = folder / "adapter_config.json"
    settings = json.loads(config.read_text()) | {"auto_mapping": {"base_model_class": "Own", "parent_library": "own"}}
    config.write_text(json.dumps(settings))
    with pytest.raises(StageError, match="remote code is not run"):
        check_after(folder, spec, model, [GOOD])


def test_fault_over_rank(saved, tmp_path):
    spec, *_ = saved
    with pytest.raises(ConfigError, match="rank 128 is above max_serving_rank 64"):
        train(spec.model_copy(update={"rank": 128}), tmp_path)
    assert not spec.out.exists()


def test_fault_duplicate_held_out_query(saved, tmp_path):
    write_heldout_keys(tmp_path / "keys.txt", ["Where is MY parcel?", "hello"])
    check_heldout([asked("where is my invoice")], tmp_path / "keys.txt")
    with pytest.raises(StageError, match="1 of 2 training examples ask a held-out query \\('b'\\)"):
        check_heldout([asked("new"), asked("where is my  parcel", "b")], tmp_path / "keys.txt")
    spec, *_ = saved
    write_heldout_keys(tmp_path / "keys.txt", ["HI!"])
    with pytest.raises(StageError, match="learnt by heart"):
        train(spec.model_copy(update={"heldout": tmp_path / "keys.txt"}), tmp_path)


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
