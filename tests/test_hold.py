"""A candidate's threshold is made stricter than the promise asks where it would serve less that is right."""

from dataclasses import replace

import numpy as np
import pytest
from answered_topics import embed, world

from cascade.calibration import CalibrationConfig, CalibrationExample, fit_calibration
from cascade.calibration.hold import hold_quality, served_right
from cascade.calibration.threshold import Part
from cascade.verifiers import LearnedConfig, LearnedTrainer, RulesConfig, fit_verifier

SCORES = [0.9, 0.8, 0.7, 0.6, 0.5]


def part(right, scores=SCORES, acceptable=True):
    return Part(np.array(scores), np.full(len(scores), acceptable), np.array(right, bool))


def flagship(n=5, wrong=()):
    return np.array([i not in wrong for i in range(n)])


def test_the_loosest_threshold_that_serves_enough_is_taken():
    found = part([1, 0, 1, 0, 0])
    assert served_right(found, flagship(), 0.5) == pytest.approx(0.4)
    assert served_right(found, flagship(), None) == 1.0
    assert hold_quality(found, flagship(), 0.5, 0.4) == 0.5
    assert hold_quality(found, flagship(), 0.5, 0.6) == 0.6
    assert hold_quality(found, flagship(), 0.5, 0.8) == 0.7
    assert hold_quality(found, flagship(), 0.5, 1.0) == 0.9


def test_what_the_flagship_gets_wrong_may_be_accepted():
    found = part([1, 0, 1, 0, 0])
    assert served_right(found, flagship(wrong=(1, 2)), 0.7) == pytest.approx(0.8)
    assert served_right(found, flagship(wrong=(1, 2)), None) == pytest.approx(0.6)
    assert hold_quality(found, flagship(wrong=(1, 2)), 0.5, 0.7) == 0.7
    assert hold_quality(found, flagship(wrong=(1, 2)), 0.5, 0.6) == 0.6


def test_out_of_reach_it_serves_the_most_and_never_accepts_more_than_is_proven():
    found = part([0, 1, 0, 0, 0])
    assert hold_quality(found, flagship(wrong=(1,)), 0.5, 1.0) == 0.8
    assert hold_quality(found, flagship(), 0.75, 0.0) == 0.75
    assert hold_quality(part([1, 1, 1, 1, 1]), flagship(), 0.65, 0.2) == 0.65
    assert hold_quality(part([1] * 5, acceptable=False), flagship(), 0.5, 1.0) == 0.5


def test_equal_scores_are_accepted_together():
    found = part([1, 0, 0, 1, 1], scores=[0.9, 0.7, 0.7, 0.7, 0.5])
    assert hold_quality(found, flagship(), 0.5, 0.9) == 0.9
    assert hold_quality(found, flagship(), 0.5, 0.6) == 0.5


def examples(n=2000):
    rng = np.random.default_rng(0)
    sure = rng.uniform(size=n)
    right = rng.random(n) < 0.7 + 0.3 * sure
    return [
        CalibrationExample({"mean_logprob": float(s)}, passes_rules=True, correct=bool(r), flagship_correct=bool(f))
        for s, r, f in zip(sure, right, rng.random(n) < 0.99, strict=True)
    ]


def test_a_calibration_keeps_to_the_floor_and_says_so():
    config = CalibrationConfig(max_error_accepted=0.1, signal="mean_logprob")
    free = fit_calibration(examples(), config)
    assert free.served_right is not None
    assert free.served_right < 0.95
    held = fit_calibration(examples(), config, floor=0.97)
    assert held.served_right == pytest.approx(0.97, abs=0.001)
    assert held.served_right >= 0.97
    assert held.threshold > free.threshold
    assert held.n_accepted < free.n_accepted
    assert held.n_wrong_accepted / held.n_accepted < free.n_wrong_accepted / free.n_accepted
    assert "at least 97.0% asked" in held.why
    assert replace(fit_calibration(examples(), config, floor=0.5), served_right=free.served_right) == free


def test_a_learned_verifier_keeps_to_it_on_fresh_queries():
    config = CalibrationConfig(max_error_accepted=0.2, seed=1)
    queries, answers, references = world(1000, seed=4)
    fresh, given, truth = world(2000, seed=5)

    def served(floor):
        verifier = fit_verifier(
            queries, answers, references, RulesConfig(), config, grade_kind="exact", floor=floor,
            scorers=[LearnedTrainer(LearnedConfig(blocks=("confidence",)), embed)],
        )  # fmt: skip
        taken = [verdict.accepted for verdict in verifier.judge(fresh, given)]
        right = [not t or a.text == r for t, a, r in zip(taken, given, truth, strict=True)]
        return np.mean(taken), np.mean(right)

    (loose, less), (strict, more) = served(None), served(0.97)
    assert less < 0.95
    assert more == pytest.approx(0.97, abs=0.015)
    assert 0.1 < strict < loose
