"""Pairing champion, candidate and flagship answers, with the real verifier and price table."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cascade.calibration import Calibration
from cascade.cost import Price, PriceTable
from cascade.errors import ConfigError, InputError
from cascade.trace import Answer, Query, TokenConfidence
from cascade.verifiers import RulesConfig, Verifier
from evaluation.replay import pair_sides, paired_row_from_dict, paired_row_to_dict

PRICES = PriceTable(prices={"small": Price(1.0, 1.0), "small-v2": Price(1.0, 1.0), "large": Price(10.0, 50.0)})
SCHEMA = {"type": "object", "required": ["a"]}


def verifier(threshold):
    fitted = Calibration(
        signal="mean_logprob",
        scores=(-1.0, 0.0),
        p_wrong=(0.8, 0.1),
        threshold=threshold,
        why="test",
        n=10,
        n_tested=10,
        n_accepted=5,
        n_wrong_accepted=0,
        error_bound=0.05,
        max_error_accepted=0.05,
        confidence=0.95,
        auroc=0.9,
        ece=0.01,
    )
    return Verifier(RulesConfig(), fitted)


def query(i, reference=None):
    messages = ({"role": "user", "content": f"question {i}"},)
    return Query(f"q{i}", datetime(2026, 1, 1, tzinfo=UTC), "support", messages, SCHEMA, reference)


def answer(text, model="small", logprob=-0.1, tokens=(100, 10)):
    confidence = TokenConfidence(tokens[1] or 1, logprob, logprob, logprob, None)
    return Answer(text, model, tokens[0], tokens[1], 0.1, "stop", confidence)


QUERIES = [query(0), query(1), query(2), query(3)]
FLAGSHIP = [answer('{"a": 1}', "large") for _ in QUERIES]
CHAMPION = [
    answer('{"a": 1}', logprob=-0.1),  # right, accepted
    answer('{"a": 2}', logprob=-0.1),  # wrong, accepted
    answer('{"a": 1}', logprob=-0.9),  # right, not sure: escalates
    answer('{"b": 1}', logprob=-0.1),  # breaks the schema: escalates
]
CANDIDATE = [answer('{ "a" : 1 }', "small-v2", logprob=-0.3) for _ in QUERIES]


def pair(**changes):
    values = {
        "heldout": QUERIES,
        "champion_answers": CHAMPION,
        "candidate_answers": CANDIDATE,
        "flagship_answers": FLAGSHIP,
        "champion_verifier": verifier(-0.5),
        "candidate_verifier": verifier(-0.2),
        "prices": PRICES,
        "reference_kind": "flagship",
        "grade_kind": "json_exact",
    }
    return pair_sides(**{**values, **changes})


def test_each_side_is_judged_by_its_own_verifier_and_pays_its_way():
    rows = pair()
    champion = [r.champion for r in rows]
    assert [s.accepted for s in champion] == [True, True, False, False]
    assert [s.correct_cheap for s in champion] == [1.0, 0.0, 1.0, 0.0]
    assert [s.served_correct for s in champion] == [1.0, 0.0, 1.0, 1.0]
    assert [s.passes_rules for s in champion] == [True, True, True, False]
    assert champion[0].score == pytest.approx(1 - 0.17)
    assert champion[3].score is None
    small, large = 110e-6, 100 * 10e-6 + 10 * 50e-6
    assert [s.cost_usd for s in champion] == pytest.approx([small, small, small + large, small + large])
    assert rows[0].flagship_cost_usd == pytest.approx(large)
    # -0.3 is below the candidate's stricter threshold: right, yet everything escalates.
    assert not any(r.candidate.accepted for r in rows)
    assert all(r.candidate.correct_cheap == 1.0 for r in rows)
    assert [r.text for r in rows] == [q.text for q in QUERIES]


def test_a_reference_grades_the_flagship_too():
    queries = [query(0, '{"a": 1}'), query(1, '{"a": 2}'), query(2, '{"a": 3}'), query(3, '{"a": 1}')]
    rows = pair(heldout=queries, reference_kind="reference")
    assert [r.champion.served_correct for r in rows] == [1.0, 1.0, 0.0, 1.0]
    assert [r.champion.correct_cheap for r in rows] == [1.0, 1.0, 0.0, 0.0]


def test_unknown_usage_is_an_unknown_cost_only_where_it_is_needed():
    lost = replace(FLAGSHIP[0], tokens_out=None)
    rows = pair(flagship_answers=[lost, lost, lost, FLAGSHIP[3]])
    assert [r.champion.cost_usd is None for r in rows] == [False, False, True, False]
    rows = pair(champion_answers=[replace(a, tokens_in=None) for a in CHAMPION])
    assert all(r.champion.cost_usd is None and r.candidate.cost_usd is not None for r in rows)


def test_no_verifier_accepts_nothing():
    rows = pair(champion_verifier=None)
    assert not any(r.champion.accepted for r in rows)
    assert all(r.champion.passes_rules and r.champion.score is None for r in rows)


def test_answers_by_id_equal_answers_in_order():
    def by_id(answers):
        return {q.id: a for q, a in reversed(list(zip(QUERIES, answers, strict=True)))}

    keyed = pair(
        champion_answers=by_id(CHAMPION),
        candidate_answers=by_id(CANDIDATE),
        flagship_answers=by_id(FLAGSHIP),
        clusters={"q1": 4, "q2": -1},
    )
    assert [r.cluster for r in keyed] == [None, 4, -1, None]
    assert [replace(r, cluster=None) for r in keyed] == pair()


def test_rows_round_trip():
    import json

    for row in pair():
        assert paired_row_from_dict(json.loads(json.dumps(paired_row_to_dict(row)))) == row


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"candidate_answers": CANDIDATE[:3]}, InputError, "candidate gave 3 answers to 4"),
        (
            {"flagship_answers": {"q0": FLAGSHIP[0]}},
            InputError,
            r"flagship has no answer to 3 of 4 .*first: q1",
        ),
        ({"heldout": [QUERIES[0]] * 4}, InputError, "4 held-out queries with 1 distinct"),
        ({"heldout": []}, InputError, "0 held-out"),
        ({"reference_kind": "reference"}, InputError, "q0 carries no reference"),
        ({"reference_kind": "oracle"}, ConfigError, "oracle"),
        ({"grade_kind": "vibes"}, ConfigError, "vibes"),
    ],
)
def test_bad_input_is_named(changes, error, message):
    with pytest.raises(error, match=message):
        pair(**changes)
