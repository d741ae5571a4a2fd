from __future__ import annotations

from flows.charts import loss_curve


def test_the_loss_curve_shows_the_examples_held_back_where_there_are_any():
    losses = [2.0 - 0.01 * i for i in range(60)]
    plain, validated = loss_curve(losses), loss_curve(losses, [(29, 1.8), (59, 1.6)])
    assert plain.startswith("<svg") and "held back" not in plain
    assert "held back" in validated and "training" in validated


def test_one_step_is_a_curve_too():
    assert loss_curve([1.0]).startswith("<svg")
