import json
import re

import numpy as np
import pytest

from cascade.calibration import Calibration, CalibrationConfig, CalibrationExample, error_upper_bound, fit_calibration
from cascade.errors import InputError


def population(rng, n, slope=3.0, offset=1.0):
    """Scores with P(right | score) = sigmoid(slope * score + offset); returns scores, right, P(right)."""
    scores = rng.normal(size=n)
    p_right = 1 / (1 + np.exp(-(slope * scores + offset)))
    return scores, rng.random(n) < p_right, p_right


def examples_of(scores, right, name="mean_logprob", passes=None):
    passes = np.ones(len(scores), dtype=bool) if passes is None else passes
    return [
        CalibrationExample({name: float(s)}, bool(p), bool(r)) for s, p, r in zip(scores, passes, right, strict=True)
    ]


def test_the_bound_is_clopper_pearson_with_the_designs_counts():
    for allowed, n in ((1, 100), (16, 500), (38, 1000)):
        assert error_upper_bound(allowed, n, 0.95) <= 0.05 < error_upper_bound(allowed + 1, n, 0.95)
    assert error_upper_bound(0, 0, 0.95) == 1.0
    assert error_upper_bound(5, 5, 0.95) == 1.0
    assert error_upper_bound(0, 59, 0.95) == pytest.approx(1 - 0.05 ** (1 / 59))


@pytest.mark.parametrize("signal", ["auto", "mean_logprob"])
def test_the_error_among_accepted_keeps_to_the_target_as_often_as_promised(signal):
    """The true risk of each fitted threshold is known here, so fits that break the promise can be counted."""
    rng = np.random.default_rng(0)
    scores, _, p_right = population(rng, 200_000)
    order = np.argsort(-scores)
    risk = np.cumsum(1 - p_right[order]) / np.arange(1, len(order) + 1)
    falling = scores[order]
    broken = accepting = 0
    runs = 100
    for seed in range(runs):
        drawn, right, _ = population(rng, 400)
        fitted = fit_calibration(
            examples_of(drawn, right),
            CalibrationConfig(max_error_accepted=0.1, confidence=0.9, signal=signal, seed=seed),
        )
        if fitted.threshold is not None:
            accepting += 1
            broken += risk[np.searchsorted(-falling, -fitted.threshold, side="right") - 1] > 0.1
    # At most 10 % of runs may break it; three standard errors of slack.
    assert broken / runs <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / runs)
    assert accepting / runs > 0.5, "a guarantee that never accepts anything is worth nothing"


def test_a_score_worth_nothing_accepts_nothing():
    rng = np.random.default_rng(1)
    drawn = rng.normal(size=1000)
    fitted = fit_calibration(examples_of(drawn, rng.random(1000) < 0.7), CalibrationConfig())
    assert fitted.threshold is None
    assert (fitted.n_accepted, fitted.n_wrong_accepted, fitted.error_bound) == (0, 0, None)
    assert fitted.why.startswith("accepts nothing")
    assert fitted.auroc == pytest.approx(0.5, abs=0.1)


def test_a_student_that_is_always_right_is_accepted_whole():
    fitted = fit_calibration(examples_of(np.linspace(-1, 0, 400), np.ones(400, bool)), CalibrationConfig())
    assert fitted.acceptance_rate > 0.97
    assert fitted.auroc is None


def test_too_few_examples_cannot_prove_anything_even_without_an_error():
    fitted = fit_calibration(examples_of(np.linspace(-1, 0, 60), np.ones(60, bool)), CalibrationConfig())
    assert fitted.threshold is None
    assert re.search(r"42 scored answers are left .* at least 59 accepted ones without an error", fitted.why)
    with pytest.raises(InputError, match="some hundreds"):
        fit_calibration([], CalibrationConfig())


def test_auto_takes_the_signal_that_ranks_best():
    rng = np.random.default_rng(2)
    scores, right, _ = population(rng, 600)
    noise = rng.normal(size=600)
    examples = [
        CalibrationExample(
            {"mean_logprob": n, "min_logprob": s, "margin": s} if i % 2 else {"mean_logprob": n, "min_logprob": s},
            True,
            bool(r),
        )
        for i, (s, n, r) in enumerate(zip(scores, noise, right, strict=True))
    ]
    fitted = fit_calibration(examples, CalibrationConfig(max_error_accepted=0.1))
    assert fitted.signal == "min_logprob"  # margin ranks as well, but half of the answers have none
    assert fitted.n_tested == 420
    assert fitted.n_accepted > 0


def test_answers_that_break_rules_or_lack_a_score_never_count_as_accepted():
    rng = np.random.default_rng(3)
    scores, right, _ = population(rng, 800)
    config = CalibrationConfig(max_error_accepted=0.1, signal="mean_logprob")
    passes = rng.random(800) < 0.5
    right_or_failing = np.where(passes, right, False)
    fitted = fit_calibration(examples_of(scores, right_or_failing, passes=passes), config)
    assert 0 < fitted.n_accepted <= passes.sum()
    assert fitted.n_wrong_accepted <= 0.1 * fitted.n_accepted
    unscored = [*examples_of(scores, right), *[CalibrationExample({}, True, False)] * 200]
    assert fit_calibration(unscored, config).n_wrong_accepted <= 0.1 * fit_calibration(unscored, config).n_accepted


def test_p_wrong_falls_with_the_score_and_is_close_to_the_truth():
    rng = np.random.default_rng(4)
    scores, right, _ = population(rng, 4000)
    fitted = fit_calibration(examples_of(scores, right), CalibrationConfig())
    assert list(fitted.p_wrong) == sorted(fitted.p_wrong, reverse=True)
    for score in (-1.0, 0.0, 0.5):
        assert fitted.p_wrong_at(score) == pytest.approx(1 / (1 + np.exp(3 * score + 1)), abs=0.08)
    assert fitted.ece < 0.05
    assert fitted.p_wrong_at(99.0) <= fitted.p_wrong_at(-99.0)


def test_the_same_seed_gives_the_same_record_and_json_keeps_it():
    scores, right, _ = population(np.random.default_rng(5), 500)
    config = CalibrationConfig(max_error_accepted=0.1)
    fitted = fit_calibration(examples_of(scores, right), config)
    assert fit_calibration(examples_of(scores, right), config) == fitted
    assert Calibration.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted
    with pytest.raises(InputError, match="not a calibration record"):
        Calibration.from_dict({"signal": "margin"})


def test_a_looser_target_accepts_more():
    scores, right, _ = population(np.random.default_rng(6), 2000)
    counts = [
        fit_calibration(examples_of(scores, right), CalibrationConfig(max_error_accepted=target)).n_accepted
        for target in (0.05, 0.1, 0.2)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[2]
