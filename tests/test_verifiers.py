import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from loopback import make_query

from cascade.calibration import Calibration, CalibrationConfig
from cascade.confidence import SIGNALS, confidence_features, confidence_score, summarise_tokens
from cascade.errors import ConfigError, InputError
from cascade.trace import Answer, Outcome, TokenConfidence
from cascade.verifiers import Link, RulesConfig, Score, Verifier, fit_verifier, rule_reasons, scorer_accounts
from cascade.verifiers.chain import score_chain

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
    (verdict,) = verifier(threshold).judge([make_query(1)], [given])
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
    assert [verdict.accepted for verdict in fitted.judge(queries[:4], answers[:4])] == [False, False, False, True]
    assert fitted.calibration.n_wrong_accepted == 0
    assert fitted.calibration.auroc == 1.0
    assert fitted.calibration.p_wrong_at(-0.01) == pytest.approx(0.0)


@dataclass(frozen=True)
class Priced:
    """A scorer that reads its value off the answer's text, at a price, and keeps what it was shown."""

    name: str
    place: int
    cost_usd: float | None = 0.01
    seen: list = field(default_factory=list, compare=False)

    def score(self, queries, answers):
        self.seen.extend(query.id for query in queries)
        values = [json.loads(answer.text)[self.place] for answer in answers]
        return [Score(v, "cannot say" if v is None else None, self.cost_usd, 0.5) for v in values]

    def to_dict(self):
        return {"kind": "priced", "name": self.name, "place": self.place}


def chain_of(*links, threshold):
    numbers = {"n": 10, "n_tested": 5, "n_accepted": 1, "n_wrong_accepted": 0, "error_bound": 0.04}
    target = {"max_error_accepted": 0.05, "confidence": 0.95, "auroc": None, "ece": None}
    return Verifier(RULES, Calibration("chain", (0.0, 2.0), (1.0, 0.0), threshold, "why", **numbers, **target), links)


def test_each_scorer_sees_and_charges_only_what_no_cheaper_one_ended():
    first, second = Priced("first", 0, 0.001), Priced("second", 1, 0.1)
    chained = chain_of(Link(first, accept_at=0.9, reject_below=0.1, p_wrong_below=0.97), Link(second), threshold=0.8)
    texts = ["[0.95, 0]", "[0.05, 9]", "[0.5, 9]", "[0.5, -9]", "[null, 9]", "[0.5, null]", ""]
    queries = [make_query(n) for n in range(len(texts))]
    verdicts = chained.judge(queries, [answer(text) for text in texts])
    accept, reject, unparsed = Outcome.ACCEPT, Outcome.REJECT, Outcome.UNPARSED
    assert [v.outcome for v in verdicts] == [accept, reject, accept, reject, unparsed, unparsed, reject]
    assert first.seen == [q.id for q in queries[:6]]
    assert second.seen == ["q0002", "q0003", "q0005"]
    assert [v.cost_usd for v in verdicts] == pytest.approx([0.001, 0.001, 0.101, 0.101, 0.001, 0.101, 0.0])
    assert [v.latency_s for v in verdicts] == [0.5, 0.5, 1.0, 1.0, 0.5, 1.0, 0.0]
    assert [v.score for v in verdicts] == [0.95, 0.05, 9, -9, None, None, None]
    assert verdicts[1].p_wrong == 0.97
    assert verdicts[5].reasons == ("cannot say",)
    rules, cheap, dear = scorer_accounts(verdicts)
    assert (rules.name, rules.n_asked, rules.n_ended, rules.cost_usd) == ("rules", 7, 1, 0.0)
    assert (cheap.name, cheap.n_asked, cheap.n_ended, cheap.n_accepted, cheap.n_unparsed) == ("first", 6, 3, 1, 1)
    assert (dear.name, dear.n_asked, dear.n_ended, dear.n_accepted, dear.n_unparsed) == ("second", 3, 3, 1, 1)
    assert dear.cost_usd == pytest.approx(0.3)


def test_an_unknown_charge_makes_the_verdicts_cost_unknown():
    chained = chain_of(Link(Priced("judge", 0, cost_usd=None)), threshold=0.5)
    (verdict,) = chained.judge([make_query(1)], [answer("[1]")])
    assert verdict.accepted
    assert verdict.cost_usd is None
    assert scorer_accounts([verdict])[1].cost_usd is None


def two_scores(n, seed):
    """A cheap score that is sure at its ends and blind between, then a dearer one that sees more."""
    rng = np.random.default_rng(seed)
    ease = rng.random(n)
    right = rng.random(n) < np.where(ease > 0.6, 0.995, np.where(ease < 0.2, 0.01, 0.6))
    dear = rng.normal(size=n) + 3 * right
    answers = [answer(json.dumps([e, d])) for e, d in zip(ease.tolist(), dear.tolist(), strict=True)]
    return [make_query(i) for i in range(n)], answers, right


def fit_on(n, seed, max_error=0.05):
    queries, answers, right = two_scores(n, seed)
    references = [a.text if ok else "[]" for a, ok in zip(answers, right.tolist(), strict=True)]
    scorers = [Priced("cheap", 0, 0.001), Priced("dear", 1, 0.1)]
    config = CalibrationConfig(max_error_accepted=max_error, seed=seed)
    return fit_verifier(queries, answers, references, RULES, config, scorers=scorers), scorers


def test_a_chain_asks_the_dear_scorer_only_where_it_matters_and_keeps_the_target_over_all_accepted():
    fitted, scorers = fit_on(3000, seed=0)
    queries, answers, right = two_scores(3000, seed=1)
    early = fitted.links[0]
    assert 0.1 < early.reject_below < 0.3 < 0.5 < early.accept_at < 0.7
    assert len(scorers[1].seen) < 0.5 * len(queries)
    verdicts = fitted.judge(queries, answers)
    accepted = np.array([v.accepted for v in verdicts])
    dear_ended = np.array([v.opinions[-1].scorer == "dear" for v in verdicts])
    assert (accepted & dear_ended).sum() > 200
    assert (accepted & ~dear_ended).sum() > 900
    assert (~right[accepted]).mean() < 0.05
    assert fitted.calibration.n_wrong_accepted <= 0.05 * fitted.calibration.n_accepted


def test_the_promise_over_a_chain_holds_on_fresh_data_as_often_as_stated():
    queries, answers, right = two_scores(6000, seed=99)
    broken = served = 0
    for seed in range(40):
        fitted, _ = fit_on(500, seed, max_error=0.08)
        values = [chained.value for chained in score_chain(fitted.chain, queries, answers)]
        threshold = fitted.calibration.threshold
        if threshold is None:
            continue
        accepted = np.array([value is not None and value >= threshold for value in values])
        served += 1
        broken += (~right[accepted]).mean() > 0.08
    # The promise is 95 %; with 40 draws six or more breaks have a chance of 1.4 % where it just holds.
    assert broken <= 5
    assert served >= 30


def test_a_chain_survives_json_with_its_bounds():
    chained = chain_of(Link(Priced("first", 0), 0.9, 0.1, 0.97), Link(Priced("second", 1)), threshold=0.8)

    def load(row):
        return Priced(row["name"], row["place"])

    row = json.loads(json.dumps(chained.to_dict()))
    assert Verifier.from_dict(row, load) == chained
    with pytest.raises(InputError, match="scorer of kind 'priced'"):
        Verifier.from_dict(row)


def test_a_scorer_that_can_judge_nothing_is_left_out_and_the_one_before_it_ends_the_matter():
    answers = [answer(f"[{n / 400}, null]") for n in range(400)]
    references = [a.text if n >= 250 or (n >= 150 and n % 2) else "[]" for n, a in enumerate(answers)]
    queries = [make_query(n) for n in range(400)]
    scorers = [Priced("first", 0), Priced("mute", 1)]
    fitted = fit_verifier(queries, answers, references, RULES, CalibrationConfig(), scorers=scorers)
    assert [link.scorer.name for link in fitted.links] == ["first"]
    assert fitted.links[0].accept_at is None
    assert fitted.left_out == {"mute": "cannot say"}
    assert sum(v.accepted for v in fitted.judge(queries, answers)) > 100
