import json
import re

import numpy as np
import pytest

from cascade.calibration import (
    Calibration,
    CalibrationConfig,
    CalibrationExample,
    allowed_wrong,
    auroc,
    brier_score,
    calibration_metrics,
    error_upper_bound,
    expected_calibration_error,
    fit_calibration,
    least_accepted,
    reliability_bins,
    risk_coverage,
    split_parts,
)
from cascade.calibration.threshold import Part, _grid, _start, find_threshold
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


def test_the_allowed_counts_are_the_designs_and_below_the_least_nothing_can_be_proven():
    assert [allowed_wrong(n, 0.05, 0.95) for n in (100, 500, 1000)] == [1, 16, 38]
    assert least_accepted(0.05, 0.95) == 59
    assert (allowed_wrong(58, 0.05, 0.95), allowed_wrong(59, 0.05, 0.95)) == (None, 0)
    for target, confidence in ((0.04, 0.95), (0.1, 0.9), (0.01, 0.99)):
        least = least_accepted(target, confidence)
        assert allowed_wrong(least, target, confidence) == 0
        assert allowed_wrong(least - 1, target, confidence) is None
        assert error_upper_bound(0, least, confidence) <= target < error_upper_bound(0, least - 1, confidence)


def test_58_flawless_answers_prove_nothing_and_59_are_enough():
    config = CalibrationConfig(signal="mean_logprob", selection_share=0.5)
    few, enough = (fit_calibration(examples_of(np.zeros(2 * n), np.ones(2 * n, bool)), config) for n in (58, 59))
    assert few.threshold is None
    assert "58 scored answers are left to test with" in few.why
    assert (enough.n_accepted, enough.threshold) == (59, 0.0)


@pytest.mark.parametrize(
    "p_wrong",
    [
        pytest.param(lambda s: np.full(s.shape, 0.1005), id="just above the target everywhere"),
        pytest.param(lambda s: np.where(s > 0, 0.02, 0.9), id="sure answers right, then a cliff"),
        pytest.param(lambda s: np.where(s > 1.645, 0.5, 1 / (1 + np.exp(4 * s + 3))), id="the surest over-claim"),
    ],
)
def test_the_promise_holds_for_adversarial_scores(p_wrong):
    """The true risk is known; 10 % of the fits may break the promise."""
    rng = np.random.default_rng(11)
    falling = np.sort(rng.normal(size=100_000))[::-1]
    risk = np.cumsum(p_wrong(falling)) / np.arange(1, falling.size + 1)
    config = CalibrationConfig(max_error_accepted=0.1, confidence=0.9)
    broken, runs = 0, 250
    for _ in range(runs):
        drawn = rng.normal(size=300)
        whole = Part(drawn, np.ones(300, bool), rng.random(300) >= p_wrong(drawn))
        learn, test = (
            Part(whole.scores[k], whole.acceptable[k], whole.correct[k]) for k in (slice(60), slice(60, 300))
        )
        found = find_threshold(learn, test, config).threshold
        if found is not None:
            broken += risk[np.searchsorted(-falling, -found, side="right") - 1] > 0.1
    assert broken / runs <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / runs)


def test_a_failed_first_start_is_saved_by_the_second():
    """Flawless up to the second start, six wrong before the first: only the level set aside can pass."""
    config = CalibrationConfig(max_error_accepted=0.05)
    learn = Part(np.linspace(1, 0, 100), np.ones(100, bool), np.arange(100) < 90)
    scores = np.linspace(1, 0, 1000)
    start = _start(_grid(learn), learn, 1000, config)
    strict, loose = _grid(learn)[start - 5], _grid(learn)[start]
    between = (scores < strict) & (scores >= loose)
    test = Part(scores, np.ones(1000, bool), ~between)
    found = find_threshold(learn, test, config)
    assert found.threshold is not None
    assert loose < found.threshold <= strict
    alone = CalibrationConfig(max_error_accepted=0.05, confidence=1 - 0.05 * 0.1)
    assert error_upper_bound(found.n_wrong, found.n_accepted, alone.confidence) <= 0.05


def over_claiming(rng, n, n_groups=10):
    """Two of ten groups are sure and wrong half of the time; returns examples, and P(wrong) of each."""
    group = rng.integers(0, n_groups, n)
    scores = rng.normal(size=n) + (group < 2)
    p_wrong = np.where(group < 2, 0.5, 1 / (1 + np.exp(4 * scores + 2.5)))
    right = rng.random(n) >= p_wrong
    rows = zip(scores, right, group, strict=True)
    return [CalibrationExample({"mean_logprob": float(s)}, True, bool(r), f"g{g}") for s, r, g in rows], p_wrong


def test_groups_that_over_claim_get_a_threshold_of_their_own():
    rng = np.random.default_rng(12)
    examples, _ = over_claiming(rng, 1500)
    fresh, p_wrong = over_claiming(rng, 5000)
    settings = {"max_error_accepted": 0.05, "signal": "mean_logprob"}
    blind = fit_calibration(examples, CalibrationConfig(**settings))
    seeing = fit_calibration(examples, CalibrationConfig(**settings, by_group=True))
    assert blind.threshold is None  # a single threshold cannot see it
    taken = np.array([seeing.accepts(e.features["mean_logprob"], e.group) for e in fresh])
    assert taken.mean() > 0.35
    assert p_wrong[taken].mean() <= 0.05
    assert seeing.threshold_for("g0") > seeing.threshold_for("g5")
    assert seeing.threshold_for(None) == seeing.threshold_for("never seen") == seeing.threshold
    assert seeing.p_wrong_at(1.0, "g0") > 0.3 > 0.1 > seeing.p_wrong_at(1.0, "g5")
    assert seeing.auroc > blind.auroc + 0.05
    by_threshold = np.array([e.features["mean_logprob"] >= seeing.threshold_for(e.group) for e in fresh])
    assert (by_threshold == taken).mean() > 0.999  # rounding at a knot apart
    assert Calibration.from_dict(json.loads(json.dumps(seeing.to_dict(), allow_nan=False))) == seeing


def test_groups_that_do_not_differ_are_left_alone():
    rng = np.random.default_rng(13)
    scores, right, _ = population(rng, 1200)
    names = [f"g{g}" for g in rng.integers(0, 12, 1200)]
    examples = [
        CalibrationExample({"mean_logprob": float(s)}, True, bool(r), g)
        for s, r, g in zip(scores, right, names, strict=True)
    ]
    fitted = fit_calibration(examples, CalibrationConfig(max_error_accepted=0.1, signal="mean_logprob", by_group=True))
    slopes = [slope for _, slope in fitted.groups.shifts.values()] or [1.0]
    assert all(0.5 < slope < 1.6 for slope in slopes)
    assert fitted.acceptance_rate > 0.3


def test_a_record_without_groups_still_reads():
    row = fit_calibration(examples_of(np.linspace(-1, 0, 200), np.ones(200, bool)), CalibrationConfig()).to_dict()
    del row["groups"]
    assert Calibration.from_dict(row).accepts(0.0, "any")


def test_the_learning_part_is_as_large_as_it_must_be():
    sizes = [
        len(split_parts(1000, config, share)[0])
        for config, share in (
            (CalibrationConfig(signal="margin"), None),
            (CalibrationConfig(), None),
            (CalibrationConfig(by_group=True), None),
            (CalibrationConfig(), 0.5),
            (CalibrationConfig(selection_share=0.2), 0.5),
        )
    ]
    assert sizes == [150, 300, 400, 500, 200]
    first, second = split_parts(1000, CalibrationConfig())
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(1000))


def test_calibration_error_counts_by_hand():
    predicted, happened = [0.1, 0.1, 0.9, 0.9], [0, 1, 1, 1]
    assert expected_calibration_error(predicted, happened, bins=2) == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert expected_calibration_error(predicted, happened, bins=2, kind="width") == pytest.approx(0.25)
    bins = reliability_bins([0.5] * 7, [1, 0, 1, 0, 1, 0, 1], bins=3)
    assert [(b.n, b.predicted) for b in bins] == [(7, 0.5)]  # equal predictions stay together
    assert brier_score(predicted, happened) == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)
    with pytest.raises(InputError, match=r"probability is 1.5: give values from 0 to 1"):
        brier_score([1.5], [1])
    with pytest.raises(InputError, match="at least one"):
        expected_calibration_error([], [])


def test_a_perfect_forecast_has_little_error_and_a_shifted_one_shows():
    rng = np.random.default_rng(14)
    p = rng.random(20_000)
    happened = rng.random(20_000) < p
    found = calibration_metrics(p, happened)
    assert max(found.ece_mass, found.ece_width) < 0.015
    assert found.brier == pytest.approx(1 / 6, abs=0.01)
    assert found.auroc == pytest.approx(5 / 6, abs=0.01)
    assert expected_calibration_error(np.clip(p + 0.2, 0, 1), happened) == pytest.approx(0.18, abs=0.03)


def test_risk_coverage_by_hand_with_ties():
    curve = risk_coverage([3, 2, 2, 1], [0, 1, 0, 1])
    assert curve.coverage == (0.25, 0.75, 1.0)
    assert curve.risk == pytest.approx((0.0, 1 / 3, 0.5))
    assert curve.aurc == pytest.approx((0 + 0.25 + 1 / 3 + 0.5) / 4)
    assert (curve.coverage_at(0.34), curve.coverage_at(0.1), curve.coverage_at(-0.1)) == (0.75, 0.25, 0.0)
    assert auroc([3, 2, 2, 1], [True, False, True, False]) == pytest.approx(3.5 / 4)
    assert auroc([1, 2], [True, True]) is None
