import json
import math

import pytest
from loopback import make_query

from cascade.calibration import Calibration, CalibrationConfig
from cascade.confidence import SIGNALS, confidence_features, confidence_score, summarise_tokens
from cascade.errors import ConfigError, InputError
from cascade.trace import Answer, Outcome, TokenConfidence
from cascade.verifiers import RulesConfig, Verifier, fit_verifier, rule_reasons

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
RULES = RulesConfig()


def answer(text="x", score=-0.1, finish_reason="stop"):
    confidence = None if score is None else TokenConfidence(3, score, 2 * score, 1.5 * score, None)
    return Answer(text, "small", 5, 3, 0.0, finish_reason, confidence)


@pytest.mark.parametrize(
    ("text", "schema", "finish_reason", "expected"),
    [
        ('{"n": 1}', SCHEMA, "stop", ()),
        ('{"n": "1"}', SCHEMA, "stop", ("schema: type at n",)),
        ("{}", SCHEMA, "stop", ("schema: required at the top",)),
        ('{"n": 1', SCHEMA, "length", ("cut off", "not JSON")),
        ("fine words", None, "stop", ()),
        ("fine words", None, "content_filter", ("finish reason content_filter",)),
        (" \n", None, "stop", ("empty",)),
        ("I\u2019m sorry, but no.", None, "stop", ("refusal: i'm sorry",)),
        ('{"quote": "i cannot log in"}', {"type": "object"}, "stop", ()),
        ("Your parcel left. " * 10 + "I cannot say more.", None, "stop", ()),
    ],
)
def test_rules(text, schema, finish_reason, expected):
    assert rule_reasons(make_query(1, schema=schema), answer(text, finish_reason=finish_reason), RULES) == expected


def test_rules_can_be_set():
    assert rule_reasons(make_query(1), answer("ok"), RulesConfig(min_characters=3)) == ("shorter than 3 characters",)
    assert rule_reasons(make_query(1, schema=SCHEMA), answer("ok"), RulesConfig(check_schema=False)) == ()
    with pytest.raises(InputError, match="not a JSON Schema"):
        rule_reasons(make_query(1, schema={"type": "nonsense"}), answer("{}"), RULES)


def test_scores_are_higher_where_the_model_is_surer():
    sure = summarise_tokens([-0.01, -0.02], [0.98, 0.97])
    unsure = summarise_tokens([-0.5, -1.2], [0.2, 0.1])
    for signal in SIGNALS:
        first, second = (confidence_score(Answer("x", "m", 1, 1, 0, "stop", c), signal) for c in (sure, unsure))
        assert first > second
    assert unsure.margin == pytest.approx(0.85)
    assert unsure.p10_logprob == pytest.approx(-1.13)


def test_unknown_confidence_stays_unknown():
    assert summarise_tokens([], []) is None
    assert summarise_tokens([-1.0, math.nan], None) is None
    assert confidence_score(answer(score=None), "mean_logprob") is None
    assert confidence_score(answer(), "margin") is None
    assert "margin" not in confidence_features(answer())
    with pytest.raises(ConfigError, match="use one of mean_logprob"):
        confidence_score(answer(), "entropy")


def verifier(threshold):
    numbers = {"n": 10, "n_tested": 5, "n_accepted": 1, "n_wrong_accepted": 0, "error_bound": 0.04}
    target = {"max_error_accepted": 0.05, "confidence": 0.95, "auroc": None, "ece": None}
    return Verifier(RULES, Calibration("mean_logprob", (-1.0, 0.0), (0.8, 0.0), threshold, "why", **numbers, **target))


@pytest.mark.parametrize(
    ("threshold", "given", "outcome", "p_wrong", "reason"),
    [
        (-0.2, answer(score=-0.2), Outcome.ACCEPT, 0.16, None),
        (-0.2, answer(score=-0.21), Outcome.REJECT, 0.168, "low confidence"),
        (None, answer(score=-0.01), Outcome.REJECT, 0.008, "no threshold"),
        (-0.2, answer(score=None), Outcome.UNPARSED, None, "no mean_logprob"),
        (-0.2, answer("", score=-0.01), Outcome.REJECT, None, "empty"),
    ],
)
def test_judge(threshold, given, outcome, p_wrong, reason):
    verdict = verifier(threshold).judge(make_query(1), given)
    assert verdict.outcome is outcome
    assert verdict.p_wrong == (None if p_wrong is None else pytest.approx(p_wrong))
    assert verdict.accepted is (outcome is Outcome.ACCEPT)
    assert not verdict.reasons if reason is None else verdict.reasons[0].startswith(reason)


def test_a_verifier_survives_json():
    original = verifier(-0.2)
    assert Verifier.from_dict(json.loads(json.dumps(original.to_dict()))) == original
    with pytest.raises(InputError, match="not a verifier record"):
        Verifier.from_dict({"rules": {}})


def test_fit_grades_against_the_references_and_leaves_rule_breakers_out():
    queries = [make_query(n) for n in range(400)]
    answers = [answer("right" if n % 2 else "wrong", score=-0.01 if n % 2 else -2.0) for n in range(400)]
    answers[1] = answer("right", finish_reason="length")
    fitted = fit_verifier(queries, answers, ["right"] * 400, RULES, CalibrationConfig(signal="mean_logprob"))
    assert fitted.judge(queries[3], answers[3]).accepted
    assert not fitted.judge(queries[2], answers[2]).accepted
    assert fitted.calibration.n_wrong_accepted == 0
    assert fitted.calibration.auroc == 1.0
    assert fitted.calibration.p_wrong_at(-0.01) == pytest.approx(0.0)
