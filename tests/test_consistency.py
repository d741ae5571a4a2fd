import json

import pytest
from loopback import PRICES, completion, make_query, serve
from pydantic import ValidationError

from cascade.client import OpenAITier
from cascade.cost import PriceTable
from cascade.errors import ConfigError
from cascade.request import OpenAITierConfig
from cascade.trace import Answer
from cascade.verifiers.consistency import ConsistencyConfig, SelfConsistency, last_number, normalise_text

QUERIES = [make_query(n) for n in range(3)]
ONE_USD = PRICES.price("small").usd(10, 5)


def answer(text):
    return Answer(text, "small", 10, 5, 0.1, "stop")


def scorer(url="http://127.0.0.1:9/v1", normalise=None, prices=PRICES, tier=None, **config):
    tier_config = OpenAITierConfig(model="tiny", name="small", base_url=url, max_retries=0, **(tier or {}))
    settings = ConsistencyConfig(**config)
    return SelfConsistency(OpenAITier(tier_config), settings, prices, normalise=normalise, progress=False)


def scores(texts, served, **options):
    """Scores of the served texts where each query's samples, in order, are `texts`."""
    options = {"tier": {"concurrency": 1}, **options}
    with serve(lambda body, n: texts[(n - 1) % len(texts)]) as server:
        judge = scorer(server.url, samples=len(texts), **options)
        found = judge.score(QUERIES[: len(served)], [answer(text) for text in served])
        judge.tier.close()
    return found


def ok(text, **fields):
    return 200, completion(text, **fields)


def test_the_score_is_the_share_of_samples_that_agree():
    texts = [ok("Paris"), ok("paris."), ok(" PARIS "), ok("Lyon"), ok("Nice")]
    paris, lyon, rome = scores(texts, ["Paris", "Lyon", "Rome"], match="text")
    assert [score.value for score in (paris, lyon, rome)] == [0.6, 0.2, 0.0]
    assert [score.reason for score in (paris, lyon)] == ["3 of 5 samples agree", "1 of 5 samples agree"]
    assert scores([ok("a"), ok("A")], ["a"], match="text")[0].reason is None


def test_every_sample_is_paid_and_the_time_is_that_of_the_longest():
    (score,) = scores([ok("a"), ok("b"), ok("a")], ["a"])
    assert score.cost_usd == pytest.approx(3 * ONE_USD)
    assert score.latency_s > 0


def test_unknown_usage_makes_the_cost_unknown_and_not_the_score():
    (score,) = scores([ok("a"), ok("a", usage=None)], ["a"])
    assert (score.value, score.cost_usd) == (1.0, None)


@pytest.mark.parametrize(
    ("failure", "cost_usd"), [((400, {"error": {"message": "no"}}), 2 * ONE_USD), ((200, b"<html>"), None)]
)
def test_a_failed_sample_leaves_no_value(failure, cost_usd):
    (score,) = scores([ok("a"), failure, ok("a")], ["a"])
    assert score.value is None
    assert score.reason.startswith("1 of 3 samples failed: ")
    assert score.cost_usd == (None if cost_usd is None else pytest.approx(cost_usd))
    assert score.latency_s is None


@pytest.mark.parametrize(
    ("match", "served", "sample", "expected"),
    [
        ("json_fields", '{"a": 1, "b": "x"}', '{"b": "x", "a": 1.0}', 1.0),
        ("json_fields", '{"a": 1, "b": "x"}', '{"a": 1, "b": "y"}', 0.5),
        ("json_fields", '{"a": 1, "b": "x"}', '{"a": 1}', 2 / 3),
        ("json_fields", '{"a": 1}', "I cannot say", 0.0),
        ("json_fields", "Yes.", "yes", 1.0),
        ("json", '{"a": 1, "b": "x"}', '{"a": 1, "b": "y"}', 0.0),
        ("json", '{"a": [1]}', '{ "a": [1.0] }', 1.0),
        ("json", "Yes.", "no", 0.0),
        ("text", "A  b\nc.", "a B C", 1.0),
        ("text", "a.b", "ab", 0.0),
        ("number", "so 3 + 4 = 7", "The answer is 7.0.", 1.0),
        ("number", "so 3 + 4 = 7", "The answer is 8.", 0.0),
        ("number", "so 3 + 4 = 7", "I give up", 0.0),
        ("number", "I give up", "I give up", None),
    ],
)
def test_agreement(match, served, sample, expected):
    assert scorer(match=match).agreement(served, sample) == (None if expected is None else pytest.approx(expected))


def test_an_answer_with_nothing_to_compare_has_no_value():
    assert scores([ok("7"), ok("7")], ["seven", " "], match="number")[0].value is None
    (score,) = scores([ok("x")], [" "])
    assert (score.value, score.reason) == (None, "empty answer")


def test_a_callers_normaliser_takes_the_place_of_the_match_and_cannot_be_stored():
    def letter(text):
        return text[-1] if text[-1] in "ABCD" else None

    found = scores([ok("It is B"), ok("B"), ok("C"), ok("dunno")], ["so B", "so E"], normalise=letter)
    assert [score.value for score in found] == [0.5, None]
    with pytest.raises(ConfigError, match="cannot be stored"):
        scorer(normalise=letter).to_dict()
    stored = json.loads(json.dumps(scorer(samples=3).to_dict()))
    assert stored["kind"] == "consistency"
    assert ConsistencyConfig.model_validate(stored["config"]) == ConsistencyConfig(samples=3)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,200.50", "1200.5"),
        ("x = -3", "-3"),
        ("(-5)", "-5"),
        ("pages 3-7", "7"),
        ("2e3 km", "2000"),
        ("7.", "7"),
        ("1,2", "2"),
        ("12,345,678", "12345678"),
        ("none", None),
        ("1e999", None),
        ("order 12345678901234567890", "12345678901234567890"),
        ("order 12345678901234567891", "12345678901234567891"),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == number


def test_normal_text():
    assert normalise_text(" Straße  1.\n") == normalise_text("STRASSE 1")


def test_a_model_without_a_price_is_named_before_anything_is_drawn(tmp_path):
    with serve() as server:
        tier = OpenAITier(OpenAITierConfig(model="tiny", base_url=server.url))
        with pytest.raises(ConfigError) as caught:
            SelfConsistency(tier, ConsistencyConfig(), PriceTable(prices={}), prices_file=tmp_path / "prices.yaml")
        assert server.bodies == []
    said = f"no price for model 'tiny' (self-consistency samples): add it to the price table {tmp_path}/prices.yaml"
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("config", [{"samples": 0}, {"match": "vibes"}, {"sampling": {"temperature": 0}}, {"k": 3}])
def test_settings_out_of_range_are_refused(config):
    with pytest.raises(ValidationError):
        ConsistencyConfig(**config)


def test_a_local_student_agrees_with_itself_when_cold_and_less_when_hot(tmp_path):
    pytest.importorskip("torch")
    from tiny_student import make_student

    from cascade.local import LocalTier, LocalTierConfig

    config = LocalTierConfig(base_model=make_student(tmp_path), name="small", max_new_tokens=6, dtype="float32")
    tier = LocalTier(config)
    answers = tier.answer(QUERIES, progress=False)

    def score(temperature):
        settings = ConsistencyConfig(samples=4, match="text", sampling={"temperature": temperature})
        return SelfConsistency(tier, settings, PRICES, progress=False).score(QUERIES, answers)

    cold, hot = score(1e-4), score(2.0)
    assert [found.value for found in cold] == [1.0] * 3
    assert sum(found.value for found in hot) < 1.0
    assert [found.value for found in hot] == [found.value for found in score(2.0)], "the same samples again"
    sent = sum(PRICES.price("small").usd(a.tokens_in, a.tokens_out) for a in answers)
    assert sum(found.cost_usd for found in cold) == pytest.approx(4 * sent)
