"""The calibration benchmark on a small scale: the effects are what they say, and the gate keeps its level."""

import json

import numpy as np
import pytest

from benchmarks.gate_calibration import CUT, RUIN, _draws, main
from benchmarks.recorded_pairs import DATA, lab_like, worlds
from promotion.policy import GatePolicy
from promotion.simulate import decide_on


def test_the_scenarios_have_the_effects_that_they_claim():
    table, policy, rng = lab_like(6000), GatePolicy(), np.random.default_rng(3)
    draws = _draws(table, policy)

    def over(scenario, value):
        samples = (draws[scenario](rng, rng.integers(0, table.n, table.n)) for _ in range(40))
        return float(np.mean([value(sample) for sample in samples]))

    def saving(t):
        return 1 - t.candidate.cost.mean() / t.champion.cost.mean()

    def quality(t):
        return (t.candidate.served - t.champion.served).mean()

    assert over("null", saving) == pytest.approx(0, abs=0.01)
    assert over("null", quality) == pytest.approx(0, abs=0.001)
    assert over("saving", saving) == pytest.approx(CUT, abs=0.01)
    assert over("saving", quality) == pytest.approx(0, abs=0.001)
    assert over("margin", quality) == pytest.approx(-policy.quality_margin, abs=0.001)
    sample = draws["one cluster"](rng, np.repeat(np.arange(table.n), 5))
    losses = [quality(sample.take(np.flatnonzero(sample.cluster == c))) for c in range(12)]
    assert min(losses) == pytest.approx(-RUIN, abs=0.05)
    assert sorted(losses)[1] > -0.05
    assert quality(sample) > -0.012  # the others gain what is left to gain


def test_a_small_run_holds_and_writes_its_results(tmp_path, capsys):
    out = tmp_path / "out.json"
    main(["--repetitions", "40", "--others", "15", "--slices", "4", "--world", "lab", "--out", str(out)])
    rows = {row["scenario"]: row for row in json.loads(out.read_text())}
    assert rows["null"]["hits"] <= 6 and rows["margin"]["hits"] <= 6  # 5 % of 40, and three standard errors
    assert rows["saving"]["hits"] >= 11 and rows["one cluster"]["hits"] >= 13
    assert rows["twelve null"]["hits"] <= 2 and rows["twelve margin"]["hits"] <= 2
    assert "made by: python -m benchmarks.gate_calibration" in capsys.readouterr().out


def test_without_spending_twelve_uses_promote_more_often_than_alpha_allows():
    # What the schedule is for: the same twelve candidates, each at the whole alpha and at its share of it.
    table = lab_like(6000)
    draw, spent = _draws(table, GatePolicy())["margin"], GatePolicy(heldout_decisions=12)
    greedy, careful = 0, 0
    for r in range(12):
        rng = np.random.default_rng([9, r])
        rows = rng.integers(0, table.n, 1000)
        samples = [draw(rng, rows) for _ in range(12)]
        greedy += any(decide_on(s, GatePolicy(), seed=1).outcome == "promote" for s in samples)
        careful += any(
            decide_on(s, spent, seed=1, heldout_uses=week).outcome == "promote" for week, s in enumerate(samples, 1)
        )
    assert greedy >= 3  # a fifth of slices and more
    assert careful <= 2


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the recorded data sets in {DATA}")
def test_recorded_worlds_are_plausible():
    found = {world.name: world.table for world in worlds()}
    assert {"zeroeval gsm", "zeroeval crux", "mmlu-pro", "routellm mmlu", "lab-like"} == set(found)
    for table in found.values():
        assert table.n >= 800
        assert 0.1 < table.champion.accepted.mean() < 0.9
        assert 0 < np.mean(table.champion.served != table.candidate.served) < 0.2
        assert (table.champion.cost > 0).all()
