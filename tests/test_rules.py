import json

import pytest
from loopback import PRICES, completion, make_query, serve
from pydantic import ValidationError

from cascade.calibration import Calibration
from cascade.cascade import Cascade
from cascade.client import OpenAITier
from cascade.errors import InputError
from cascade.request import OpenAITierConfig
from cascade.sql_store import SqlTraceStore
from cascade.trace import Answer
from cascade.traffic import read_traffic, write_traffic
from cascade.verifiers import RulesConfig, Verifier, rule_reasons
from cascade.verifiers.rules import schema_problem

NUMBERS = {"n": 2, "n_tested": 1, "n_accepted": 1, "n_wrong_accepted": 0, "error_bound": 0.0}
TARGET = {"max_error_accepted": 0.05, "confidence": 0.95, "auroc": None, "ece": None}
LENIENT = Calibration("mean_logprob", (-1.0, 0.0), (1.0, 0.0), -99.0, "accepts all", **NUMBERS, **TARGET)

BAD_SCHEMAS = [
    ({"type": "nonsense"}, "'nonsense' is not valid"),
    ({"multipleOf": 0}, "0 is less than or equal"),
    ({"properties": {"n": {"pattern": "("}}}, "'(' is not a 'regex'"),
    ({"$ref": "#/$defs/absent"}, "refers to '/$defs/absent', which is not in it"),
    ({"$ref": "#"}, "refers to itself without end"),
    ({"$schema": 7}, "$schema is 7"),
]


def answer(text):
    return Answer(text, "small", 5, 3, 0.0, "stop")


def reasons(text, **rules):
    return rule_reasons(make_query(1), answer(text), RulesConfig(**rules))


def test_required_and_forbidden_patterns_name_themselves():
    rules = {"require": (r"^Dear ", r"\bRMA-\d{6}\b"), "forbid": (r"(?i)competitor", r"https?://")}
    assert reasons("Dear Ann, your number is RMA-123456.", **rules) == ()
    assert reasons("Hello, see http://x.example", **rules) == (
        "require: ^Dear ",
        r"require: \bRMA-\d{6}\b",
        "forbid: https?://",
    )
    assert reasons("Dear Ann, RMA-123456, our COMPETITOR has it.", **rules) == ("forbid: (?i)competitor",)
    assert reasons('{"note": "https://x"}', forbid=rules["forbid"]) == ("forbid: https?://",), "JSON is searched too"


@pytest.mark.parametrize(
    ("pattern", "said"),
    [("a(b", "'a(b' is not a regular expression: missing ), unterminated subpattern at position 1"),
     ("ab*+*", "at position 4"), ("[z-a]", "bad character range z-a at position 1")],
)  # fmt: skip
@pytest.mark.parametrize("field", ["require", "forbid"])
def test_a_bad_pattern_is_refused_when_the_settings_are_read(field, pattern, said):
    with pytest.raises(ValidationError) as caught:
        RulesConfig(**{field: ["fine", pattern]})
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]
    message = caught.value.errors()[0]["msg"]
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(("schema", "said"), BAD_SCHEMAS)
def test_a_schema_that_is_none_is_the_traffics_fault(schema, said):
    with pytest.raises(InputError) as caught:
        rule_reasons(make_query(7, schema=schema), answer('{"n": "x"}'), RulesConfig())
    message = str(caught.value)
    assert message.startswith("the schema of query q0007 is not a JSON Schema: ")
    assert said in message
    assert message.endswith("; correct the traffic")
    assert "\n" not in message


def test_a_bad_schema_is_told_of_also_where_the_answer_is_not_json():
    with pytest.raises(InputError, match="not a JSON Schema"):
        rule_reasons(make_query(7, schema={"type": "nonsense"}), answer("prose"), RulesConfig())


def test_a_long_complaint_of_the_library_is_cut():
    problem = schema_problem({"type": ["object", {"x": "y" * 5000}]})
    assert problem is not None
    assert len(problem) < 250


def test_a_reference_to_another_place_is_not_fetched():
    """The server's answer is a fine schema, so fetching it would let the answer through."""
    with serve() as server:
        query = make_query(1, schema={"$ref": f"{server.url}/models"})
        with pytest.raises(InputError, match="which is not in it"):
            rule_reasons(query, answer("{}"), RulesConfig())


def test_references_within_a_schema_work():
    schema = {"$defs": {"n": {"type": "integer"}}, "properties": {"n": {"$ref": "#/$defs/n"}}}
    assert schema_problem(schema) is None
    assert rule_reasons(make_query(1, schema=schema), answer('{"n": 1}'), RulesConfig()) == ()
    assert rule_reasons(make_query(1, schema=schema), answer('{"n": "1"}'), RulesConfig()) == ("schema: type at n",)


@pytest.mark.parametrize(("schema", "said"), BAD_SCHEMAS)
def test_traffic_with_a_bad_schema_is_kept_apart_with_its_reason(tmp_path, schema, said):
    write_traffic(tmp_path / "t.jsonl", [make_query(1), make_query(2, schema=schema), make_query(3)])
    found = read_traffic(tmp_path / "t.jsonl")
    assert [query.id for query in found.queries] == ["q0001", "q0003"]
    assert found.rejected[0].line_number == 2
    assert found.rejected[0].reason.startswith("schema is not a JSON Schema: ")
    assert said in found.rejected[0].reason


def test_a_bad_schema_stops_serving_before_anything_is_stored_or_bought(tmp_path):
    """A query that did not come through a traffic file."""
    queries = [make_query(1), make_query(2, schema={"type": "nonsense"}), make_query(3)]
    entry = {"token": "{}", "logprob": -0.1, "top_logprobs": [{"token": t, "logprob": -0.1} for t in "ab"]}

    def reply(body, n):
        choice = completion("{}")["choices"][0] | {"logprobs": {"content": [entry]}}
        return 200, completion("{}", choices=[choice])

    store = SqlTraceStore(tmp_path / "traces.db")
    with serve(reply) as small, serve() as large:
        tiers = [
            OpenAITier(OpenAITierConfig(model=name, base_url=server.url, logprobs=name == "small"))
            for name, server in (("small", small), ("large", large))
        ]
        cascade = Cascade(tiers[0], Verifier(RulesConfig(), LENIENT), tiers[1], PRICES, "v1", audit_rate=1.0)
        with pytest.raises(InputError, match="schema of query q0002 is not a JSON Schema"):
            cascade.serve(queries, store, progress=False)
        assert store.count() == 0
        assert large.bodies == []
        assert cascade.serve([queries[0], queries[2]], store, progress=False).n == 2
        for tier in tiers:
            tier.close()
    store.close()


def test_rules_survive_json():
    rules = RulesConfig(require=("a",), forbid=("b|c",))
    assert RulesConfig.model_validate(json.loads(rules.model_dump_json())) == rules
