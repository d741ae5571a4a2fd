from __future__ import annotations

import torch

from finetune.checkpoint import Progress, resume, save


def progress(plan="p", value=0.0):
    weight = torch.nn.Parameter(torch.full((3,), value))
    return Progress(plan, {"w": weight}, torch.optim.AdamW([weight], lr=0.1), [], 0.0)


def step(state):
    state.weights["w"].grad = torch.tensor([1.0, -2.0, 3.0])
    state.optimizer.step()
    state.losses.append(1.5)


def test_goes_on_as_if_never_stopped(tmp_path):
    whole = progress()
    for _ in range(6):
        step(whole)
    first = progress()
    for _ in range(3):
        step(first)
    first.seconds = 7.0
    save(tmp_path / "c.pt", first)
    second = progress(value=9.0)
    resume(tmp_path / "c.pt", second)
    assert second.seconds == 7.0
    for _ in range(3):
        step(second)
    assert second.losses == whole.losses
    assert second.weights["w"].equal(whole.weights["w"])


def test_another_plan_or_none_changes_nothing(tmp_path, capsys):
    saved = progress("old", 5.0)
    step(saved)
    save(tmp_path / "c.pt", saved)
    fresh = progress("new")
    resume(tmp_path / "c.pt", fresh)
    resume(tmp_path / "absent.pt", fresh)
    assert fresh.losses == []
    assert fresh.weights["w"].tolist() == [0, 0, 0]
    assert capsys.readouterr().err.count("starting over") == 1


def test_a_half_written_checkpoint_is_not_seen(tmp_path):
    saved = progress()
    step(saved)
    save(tmp_path / "c.pt", saved)
    (tmp_path / "c.tmp").write_bytes(b"half")
    again = progress()
    resume(tmp_path / "c.pt", again)
    assert again.losses == [1.5]
    save(tmp_path / "c.pt", again)
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_validation_keeps_the_best_weights_through_a_resume_and_knows_when_to_stop(tmp_path):
    state = progress()
    for number, loss in enumerate([3.0, 2.0, 2.5, 2.4]):
        step(state)
        state.validated(number, loss)
        if loss == 2.0:
            best = state.weights["w"].detach().clone()
    assert not state.stalled(3)
    save(tmp_path / "c.pt", state)
    again = progress()
    resume(tmp_path / "c.pt", again)
    assert again.validation == [(0, 3.0), (1, 2.0), (2, 2.5), (3, 2.4)]
    again.validated(4, 2.0)
    assert again.stalled(3)
    assert not again.stalled(4)
    again.restore_best()
    assert again.weights["w"].equal(best)
