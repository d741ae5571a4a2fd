"""Pictures are SVG that says what it shows; their data are tested where they are made."""

import numpy as np

from cascade.calibration import reliability_bins, risk_coverage
from flows.charts import loss_curve, reliability_diagram, risk_coverage_curve


def test_a_reliability_diagram_names_its_curves_and_repeats_to_the_byte():
    rng = np.random.default_rng(0)
    p = rng.random(500)
    wrong = rng.random(500) < p
    curves = {"raw": reliability_bins(p**2, wrong), "isotonic": reliability_bins(p, wrong)}
    made = reliability_diagram(curves)
    assert made.startswith("<svg")
    for text in ("raw", "isotonic", "perfect", "predicted P(wrong)"):
        assert f">{text}<" in made
    assert reliability_diagram(curves) == made


def test_a_risk_coverage_curve_shows_area_and_target():
    made = risk_coverage_curve({"base": risk_coverage([3, 2, 1], [0, 0, 1])}, target=0.05)
    assert ">base (AURC 0.111)<" in made
    assert ">target 5.0%<" in made
    assert "target" not in risk_coverage_curve({"base": risk_coverage([3, 2, 1], [0, 0, 1])})


def test_the_loss_curve_shows_the_examples_held_back_where_there_are_any():
    losses = [2.0 - 0.01 * i for i in range(60)]
    plain, validated = loss_curve(losses), loss_curve(losses, [(29, 1.8), (59, 1.6)])
    assert plain.startswith("<svg") and "held back" not in plain
    assert "held back" in validated and "training" in validated


def test_one_step_is_a_curve_too():
    assert loss_curve([1.0]).startswith("<svg")
