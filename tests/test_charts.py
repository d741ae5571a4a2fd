"""Pictures are SVG that says what it shows; their data are tested where they are made."""

import numpy as np

from cascade.calibration import reliability_bins, risk_coverage
from flows.charts import reliability_diagram, risk_coverage_curve


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
