from __future__ import annotations

import pytest
import torch
from adapted_student import BATCH, drawn, gradient, naive, same_gradient, student
from tiny_student import make_student

from cascade.errors import ConfigError
from finetune.batches import cut_rectangles, pack_best_fit, share_of, shared_prompt
from finetune.encode import EncodedExample
from finetune.fast import fast_path
from finetune.loss import Gradients, completion_loss, packed_loss


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.fixture
def model(base, tmp_path):
    return student(base, tmp_path)


@pytest.mark.parametrize("batch", [BATCH, drawn(6), drawn(5, opening=40), drawn(1)], ids=["b", "d", "shared", "one"])
@pytest.mark.parametrize("layout", ["padded", "packed", "fast", "fast-recomputed"])
def test_every_layout_gives_the_naive_loss_and_gradient(model, layout, batch):
    wanted = gradient(model, naive(model, batch))
    gradients = Gradients(model, 10_000, layout.split("-")[0])
    if layout == "fast-recomputed":
        gradients.fast.checkpointing = True
    gradients.refresh()
    loss = gradients.loss(batch)
    assert loss.item() == pytest.approx(naive(model, batch).item(), rel=1e-5)
    same_gradient(gradient(model, loss), wanted)


@pytest.mark.parametrize("layout", ["padded", "packed", "fast"])
def test_what_one_example_says_changes_nothing_for_the_others(model, layout):
    gradients = Gradients(model, 10_000, layout)
    gradients.refresh()
    one, two, other = drawn(3, opening=12)
    alone = gradients.loss([one]).item()
    assert (gradients.loss([one, two]) - gradients.loss([two])).item() == pytest.approx(alone, rel=1e-4)
    assert (gradients.loss([one, other]) - gradients.loss([other])).item() == pytest.approx(alone, rel=1e-4)


def other_form(kind):
    import transformers
    from peft import LoraConfig, get_peft_model

    more = {"head_dim": 8, "sliding_window": None} | ({"use_sliding_window": False} if kind != "Mistral" else {})
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3, "vocab_size": 300}
    config = getattr(transformers, f"{kind}Config")(hidden_size=32, intermediate_size=48, **sizes, **more)
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}ForCausalLM")(config)
    for name, weight in made.named_parameters():  # biases and gains as a trained model has them
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(weight, mean=float("norm" in name), std=0.2)
    model = get_peft_model(made, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model.eval()


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Mistral"])
@pytest.mark.parametrize("batch", [drawn(4), drawn(4, opening=30)], ids=["apart", "shared"])
def test_the_fast_path_knows_its_other_forms(kind, batch):
    model = other_form(kind)
    wanted = gradient(model, naive(model, batch))
    fast = fast_path(model)
    fast.refresh()
    loss = fast.loss(batch)
    assert loss.item() == pytest.approx(naive(model, batch).item(), rel=1e-5)
    same_gradient(gradient(model, loss), wanted)


def test_only_completion_positions_reach_the_output_layer(model):
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _m, i, _o: seen.append(tuple(i[0].shape)))
    completion_loss(model, BATCH)
    packed_loss(model, BATCH)
    assert seen == 2 * [(1, sum(e.n_completion for e in BATCH), 32)]
    model(input_ids=torch.tensor([[1, 2, 3]]))
    assert seen[-1] == (1, 3, 32), "the selection must not outlive the loss"


def test_the_fast_path_takes_up_changed_weights_only_when_told(model):
    fast = fast_path(model)
    fast.refresh()
    before = fast.loss(BATCH).item()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.mul_(2)
    assert fast.loss(BATCH).item() == before
    fast.refresh()
    assert fast.loss(BATCH).item() == pytest.approx(completion_loss(model, BATCH).item(), rel=1e-5)
    assert fast.loss(BATCH).item() != pytest.approx(before, rel=1e-3)


def test_a_shared_opening_is_embedded_once(model):
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda _m, i, _o: seen.append(i[0].numel()))
    batch = drawn(5, opening=40)
    fast = fast_path(model)
    fast.refresh()
    fast.loss(batch)
    widest = max(len(e.ids) for e in batch) - 1
    assert seen == [40 + 5 * (widest - 40)]


def test_bfloat16_base_keeps_its_adapter_apart_and_agrees(base, tmp_path):
    model = student(base, tmp_path, dtype="bfloat16")
    fast = fast_path(model)
    fast.refresh()
    assert all(part.apart and part.stacked is None for parts in fast.parts for part in parts)
    batch = drawn(4)
    assert fast.loss(batch).item() == pytest.approx(completion_loss(model, batch).item(), rel=2e-2)
    grads = gradient(model, fast.loss(batch))
    assert {g.dtype for g in grads.values()} == {torch.float32}


def test_fast_is_for_known_forms_and_plain_adapters_only(base, tmp_path):
    model = student(base, tmp_path)
    assert Gradients(model, 100).layout == "fast"
    model.get_base_model().config.sliding_window = 8
    assert fast_path(model) is None
    with pytest.raises(ConfigError, match="'llama'"):
        Gradients(model, 100, "fast")


def scarce(limit):
    """A forward of more than `limit` tokens finds no memory."""

    def hook(_module, args):
        if args[0].numel() > limit:
            raise torch.OutOfMemoryError(f"{args[0].numel()} tokens are too many")

    return hook


@pytest.mark.parametrize("layout", ["padded", "packed", "fast"])
def test_out_of_memory_makes_smaller_pieces_of_the_same_gradient(model, layout):
    batch = drawn(8)
    n = sum(e.n_completion for e in batch)
    wanted = gradient(model, naive(model, batch) / n)
    gradients = Gradients(model, 10_000, layout)
    handle = model.get_input_embeddings().register_forward_pre_hook(scarce(80))
    model.zero_grad()
    loss = gradients.accumulate(batch, n)
    handle.remove()
    assert 40 <= gradients.micro_tokens < 160
    assert not gradients.checkpointing
    assert loss == pytest.approx(naive(model, batch).item() / n, rel=1e-5)
    same_gradient({n: p.grad for n, p in model.named_parameters() if p.requires_grad}, wanted)


@pytest.mark.parametrize("layout", ["padded", "fast"])
def test_one_example_without_memory_recomputes_activations_and_then_gives_up(model, layout):
    model.train()
    gradients = Gradients(model, 10_000, layout)
    calls = []

    def hook(_module, _args):
        calls.append(gradients.checkpointing)
        if not gradients.checkpointing:
            raise torch.OutOfMemoryError("nothing kept fits")

    handle = model.get_input_embeddings().register_forward_pre_hook(hook)
    gradients.accumulate(BATCH[:1], 2)
    assert calls == [False, True]
    handle.remove()
    model.get_input_embeddings().register_forward_pre_hook(scarce(0))
    with pytest.raises(torch.OutOfMemoryError):
        gradients.accumulate(BATCH[:1], 2)


def test_memory_that_truly_ends_is_backed_off_from(base, tmp_path):
    """The kernel's own limit on the process, met by a real allocation, in a process of its own."""
    import subprocess
    import sys

    script = """
import resource, sys, torch
sys.path.insert(0, "tests")
from adapted_student import student, alike
from pathlib import Path
from finetune.loss import Gradients
model = student(Path(sys.argv[1]), Path(sys.argv[2]))
batch = alike(150)
gradients = Gradients(model, 10**9, "padded")
gradients.accumulate(batch[:4], 100)  # whatever is loaded late is loaded now
model.zero_grad()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 80 * 2**20, resource.RLIM_INFINITY))
loss = gradients.accumulate(batch, 1)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
whole = Gradients(model, 2000, "padded").mean_loss(batch) * sum(e.n_completion for e in batch)
print(gradients.micro_tokens, loss, whole)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(base), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    micro, loss, whole = done.stdout.split()
    assert int(micro) < 150 * 181
    assert float(loss) == pytest.approx(float(whole), rel=1e-4)


def test_rectangles_keep_all_examples_within_their_size_and_pad_little():
    batch = drawn(60)
    pieces = cut_rectangles(batch, 200)
    assert sorted(e.id for piece in pieces for e in piece) == sorted(e.id for e in batch)
    sizes = [len(p) * max(len(e.ids) for e in p) for p in pieces]
    assert max(sizes) <= 200
    assert sum(sizes) <= 1.06 * sum(len(e.ids) for e in batch)
    assert cut_rectangles(drawn(1, opening=300), 200) == [drawn(1, opening=300)]


def test_pieces_with_a_common_opening_count_it_once():
    batch = drawn(8, opening=100)
    assert max(len(piece) for piece in cut_rectangles(batch, 130)) == 1
    pieces = cut_rectangles(batch, 130, share=True)
    assert sorted(e.id for piece in pieces for e in piece) == sorted(e.id for e in batch)
    computed = sum(100 + len(p) * (max(len(e.ids) for e in p) - 100) for p in pieces)
    assert computed < 0.5 * sum(len(e.ids) for e in batch)


def test_packing_fills_rows_best_fit():
    def of(*lengths):
        return [EncodedExample(f"{i}", (1,) * n, 1) for i, n in enumerate(lengths)]

    packed = pack_best_fit(of(60, 50, 40, 30, 20, 120), 100)
    assert sorted(sorted(len(e.ids) for e in row) for row in packed) == [[20, 30, 50], [40, 60], [120]]


def test_processes_share_a_step_without_gap_or_overlap():
    batch = drawn(23)
    shares = [share_of(batch, rank, 3) for rank in range(3)]
    assert sorted(e.id for share in shares for e in share) == sorted(e.id for e in batch)
    weights = [sum(len(e.ids) for e in share) for share in shares]
    assert max(weights) < 1.2 * min(weights)


def test_a_shared_opening_counts_where_it_saves_and_never_holds_the_last_prompt_token():
    assert shared_prompt(drawn(5, opening=40)) == 40
    assert shared_prompt(drawn(1, opening=40)) == 0
    assert shared_prompt(drawn(5)) == 0
    same = [EncodedExample("a", (5, 6, 7, 8, 1), 3), EncodedExample("b", (5, 6, 7, 8, 2), 3)]
    assert shared_prompt(same) == 2
