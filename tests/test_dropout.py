"""Dropout on the fast path: the loss of the model itself under the same masks, its spread under masks of its own."""

from __future__ import annotations

import pytest
import torch
from adapted_student import BATCH, drawn, gradient, naive, same_gradient, student
from tiny_student import make_student

from finetune import projection
from finetune.fast import fast_path
from finetune.kernels import keep_mask
from finetune.loss import Gradients, completion_loss


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("student"))


def columns_left_out(width):
    return torch.rand(width, generator=torch.Generator().manual_seed(width)) >= 0.4


@pytest.fixture
def dropping(monkeypatch):
    """Dropout that leaves out the same columns of every token, in the model's own layers and in ours."""
    monkeypatch.setattr(projection, "keep_mask", lambda x, _: columns_left_out(x.shape[1]).expand_as(x))

    def forward(self, x):
        return x * columns_left_out(x.shape[-1]) / (1 - self.p) if self.training else x

    monkeypatch.setattr(torch.nn.Dropout, "forward", forward)


@pytest.mark.parametrize("batch", [BATCH, drawn(5, opening=40)], ids=["short", "shared"])
def test_with_dropout_the_fast_path_gives_the_models_own_loss_and_gradient(base, tmp_path, dropping, batch):
    model = student(base, tmp_path, dropout=0.4).train()
    plain = completion_loss(model, batch)
    wanted = gradient(model, plain)
    gradients = Gradients(model, 10_000)
    assert gradients.layout == "fast"
    gradients.refresh()
    loss = gradients.loss(batch)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    assert loss.item() != pytest.approx(naive(model.eval(), batch).item(), rel=1e-3)
    same_gradient(gradient(model, loss), wanted)


def test_validation_has_no_dropout_and_training_gets_it_back(base, tmp_path):
    model = student(base, tmp_path, dropout=0.4).train()
    gradients = Gradients(model, 10_000)
    gradients.refresh()
    dropped = gradients.loss(BATCH).item()
    whole = gradients.mean_loss(BATCH) * sum(e.n_completion for e in BATCH)
    assert whole == pytest.approx(naive(model.eval(), BATCH).item(), rel=1e-5)
    model.train()
    gradients.refresh()
    assert gradients.loss(BATCH).item() not in (dropped, pytest.approx(whole))


def test_recomputed_activations_meet_the_same_dropout(base, tmp_path):
    model = student(base, tmp_path, dropout=0.4).train()
    model.get_base_model().config.attention_dropout = 0.2
    for layer in model.get_base_model().model.layers:
        layer.self_attn.attention_dropout = 0.2
    found = []
    for recomputed in (False, True):
        fast = fast_path(model)
        fast.checkpointing = recomputed
        fast.refresh()
        torch.manual_seed(3)
        found.append(gradient(model, fast.loss(drawn(4))))
    same_gradient(*found)


def test_attention_has_the_models_own_dropout(base, tmp_path):
    model = student(base, tmp_path)
    fast = fast_path(model)
    fast.refresh()
    plain = fast.loss(BATCH).item()
    for layer in model.get_base_model().model.layers:
        layer.self_attn.attention_dropout = 0.3
    assert fast.loss(BATCH).item() == pytest.approx(plain)  # evaluation
    model.train()
    torch.manual_seed(0)
    losses = [fast.loss(BATCH).item() for _ in range(200)]
    assert len(set(losses)) == 200
    torch.manual_seed(1)
    theirs = [completion_loss(model, BATCH).item() for _ in range(200)]
    spread = (torch.tensor(losses).var() + torch.tensor(theirs).var()).div(200).sqrt().item()
    assert sum(losses) / 200 == pytest.approx(sum(theirs) / 200, abs=4 * spread)
    assert torch.tensor(losses).std().item() == pytest.approx(torch.tensor(theirs).std().item(), rel=0.3)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_the_mask_leaves_out_the_share_asked_for(share):
    torch.manual_seed(0)
    kept = keep_mask(torch.zeros(401, 1003), share)  # no multiple of the four entries that one draw serves
    assert kept.dtype == torch.bool and kept.shape == (401, 1003)
    assert kept.float().mean().item() == pytest.approx(1 - share, abs=0.002)
    assert kept.float().mean(0).std().item() < 0.03  # every column alike
