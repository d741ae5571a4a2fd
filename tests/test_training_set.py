from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from cascade.errors import ConfigError, InputError
from cascade.trace import Answer, Outcome, Query, TokenConfidence, Trace, Verdict
from finetune.near_duplicates import NearDuplicates
from finetune.training_set import (
    TrainingSetConfig,
    build_training_set,
    normalise,
    read_training_examples,
    write_training_examples,
)

CONFIG = TrainingSetConfig(teacher_permission="our own model")
SCHEMA = {"type": "object", "required": ["intent"], "properties": {"intent": {"type": "string"}}}


def query(name, text, schema=None, user=None):
    messages = ({"role": "user", "content": text},)
    return Query(name, datetime(2026, 3, 2, tzinfo=UTC), "r", messages, schema, user=user)


def answer(text, finish="stop", logprob=None):
    confidence = None if logprob is None else TokenConfidence(3, logprob, logprob, logprob, None)
    return Answer(text, "m", 5, 5, 0.1, finish, confidence)


def trace(name, text, logprob, *, escalated=False, audited=False, flagship=None, cheap="ok"):
    verdict = Verdict(Outcome.REJECT if escalated else Outcome.ACCEPT, 0.1, ())
    return Trace(
        query(name, text), answer(cheap, logprob=logprob), "v1", verdict, escalated, audited, 0.01,
        None if flagship is None else answer(flagship), 0.001,
    )  # fmt: skip


def build(selected, pool=(), heldout=(), config=CONFIG, seed=0, **more):
    return build_training_set(selected, pool, set(heldout), config, seed, **more)


LONG = "please tell me when the parcel with the blue chairs that I ordered last week for my mother will be at her door"


def test_near_duplicates_go_and_templates_with_other_values_stay():
    selected = [
        (query("first", LONG), answer("on Monday")),
        (query("near", LONG + " please"), answer("on Tuesday")),
        (query("value", "where is order 4821 now"), answer("a")),
        (query("other value", "where is order 4822 now"), answer("b")),
    ]
    result = build(selected)
    assert {e.id for e in result.examples} == {"first", "value", "other value"}
    assert dict(result.dropped) == {"near": "near-duplicate"}
    assert result.counts["near_duplicates"] == 1
    kept = build(selected, config=CONFIG.model_copy(update={"near_duplicate_overlap": None}))
    assert len(kept.examples) == 4


def test_near_duplicates_are_found_among_many():
    words = [f"w{i}" for i in range(400)]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(words, k=40)) for _ in range(1500)]
    near = NearDuplicates(0.9)
    assert all(near.add(text) for text in texts)
    copies = [text + " indeed" for text in rng.sample(texts, 200)]
    assert not any(near.add(copy) for copy in copies)


def test_no_user_gets_more_than_the_cap():
    config = CONFIG.model_copy(update={"per_user_cap": 2})
    loud = [(query(f"l{i}", f"loud wish {i}", user="loud"), answer("ok")) for i in range(5)]
    others = [(query(f"o{i}", f"calm wish {i}", user=f"u{i}"), answer("ok")) for i in range(3)]
    nameless = [(query(f"n{i}", f"nameless wish {i}"), answer("ok")) for i in range(3)]
    result = build([*loud, *others, *nameless], config=config)
    assert {e.id for e in result.examples} == {"l0", "l1", "o0", "o1", "o2", "n0", "n1", "n2"}
    assert set(dict(result.dropped).values()) == {"its user has 2 examples already"}


def test_overlap_with_held_out_queries_is_counted():
    selected = [(query(f"s{i}", f"wish {i}"), answer("ok")) for i in range(6)]
    result = build(selected, [trace("p", "Wish 9?", -0.1)], heldout=["WISH 1!", "wish 4", "wish 9"])
    assert result.counts["heldout_overlap"] == 3
    assert {i for i, reason in result.dropped} == {"s1", "s4", "p"}


def test_needs_a_permission():
    with pytest.raises(ConfigError, match="teacher_permission"):
        build([(query("a", "hi"), answer("ok"))], config=TrainingSetConfig(teacher_permission=" "))


def test_keeps_good_answers_with_their_cluster_and_says_why_others_went():
    selected = [
        (query("good", "cancel it", SCHEMA), answer('{"intent": "cancel"}')),
        (query("cut", "stop it"), answer("I am", "length")),
        (query("refused", "do it"), answer("I'm sorry, I cannot help with that.")),
        (query("schema", "drop it", SCHEMA), answer('{"wish": "cancel"}')),
        (query("prose", "leave it", SCHEMA), answer("cancel")),
        (query("empty", "take it"), answer("  ")),
        (query("silent", "  "), answer("ok")),
        (query("held", "Where is MY parcel?!"), answer("ok")),
        (query("again", "Cancel  it."), answer('{"intent": "cancel"}')),
        (query("long", "x" * 30_000), answer("ok")),
    ]
    result = build(selected, heldout=["where is my parcel"], clusters={"good": 4})
    assert [(e.id, e.source, e.cluster, e.answer) for e in result.examples] == [
        ("good", "flagship", 4, '{"intent": "cancel"}')
    ]
    reasons = dict(result.dropped)
    assert reasons.keys() == {q.id for q, _ in selected} - {"good"}
    assert reasons["held"] == "overlaps a held-out query"
    assert reasons["again"] == "duplicate"
    assert reasons["silent"] == "empty query"
    assert reasons["long"].startswith("longer than")
    assert reasons["refused"].startswith("refusal")
    assert result.counts["heldout_overlap"] == 1
    assert result.counts["dropped"] == 9
    assert result.teacher_permission == "our own model"


def test_a_dropped_query_does_not_make_a_later_good_one_a_duplicate():
    result = build([(query("cut", "same"), answer("ye", "length")), (query("whole", "same"), answer("yes"))])
    assert [e.id for e in result.examples] == ["whole"]


def test_nothing_left_is_an_error():
    with pytest.raises(InputError, match="None of 1"):
        build([(query("cut", "x"), answer("y", "length"))])


def test_replays_the_students_own_confident_accepted_answers():
    selected = [(query(f"s{i}", f"new thing {i}"), answer("yes")) for i in range(3)]
    pool = [
        trace("sure", "track parcel", -0.01),
        trace("surer", "refund please", -0.001),
        trace("audited right", "open hours", -0.01, audited=True, flagship="ok"),
        trace("unsure", "weird wish", -2.0),
        trace("unsurer", "weirder wish", -3.0),
        trace("unknown", "no logprob", None),
        trace("escalated", "hard one", -0.001, escalated=True, flagship="other"),
        trace("audited wrong", "bad one", -0.001, audited=True, flagship="other"),
        trace("held", "secret test", -0.001),
        trace("taught", "new thing 1", -0.001),
    ]
    config = CONFIG.model_copy(update={"replay_min_confidence": 0.3})
    result = build(selected, pool, ["secret test"], config)
    replayed = {e.id for e in result.examples if e.source == "replay"}
    assert replayed == {"sure", "surer", "audited right"}
    assert result.counts["replay"] == 3
    assert dict(result.dropped) == {"held": "overlaps a held-out query", "taught": "duplicate"}


@pytest.mark.parametrize(
    ("ratio", "least", "most", "wanted"),
    [
        (0, 0, None, 0),
        (0.5, 0, None, 2),
        (2, 0, None, 8),
        (2, 0, 5, 5),
        (2, 6, None, 8),
        (2, 30, None, 30),
        (2, 99, None, 40),
        (2, 30, 9, 9),
        (0, 30, None, 0),
    ],
)
def test_replay_follows_the_ratio_between_its_bounds(ratio, least, most, wanted):
    selected = [(query(f"s{i}", f"new thing {i}"), answer("yes")) for i in range(4)]
    pool = [trace(f"p{i}", f"old thing {i}", -0.01) for i in range(40)]
    config = CONFIG.model_copy(update={"replay_ratio": ratio, "min_replay": least, "max_replay": most})
    assert build(selected, pool, config=config).counts["replay"] == wanted


def test_replay_is_diverse_even_when_one_kind_fills_the_pool():
    selected = [(query(f"s{i}", f"new thing {i}"), answer("yes")) for i in range(12)]
    common = [trace(f"c{i}", f"track parcel number {i}", -0.001) for i in range(300)]
    rare = [trace(f"r{i}", f"gift card balance {i}", -0.001) for i in range(6)]
    result = build(selected, common + rare)
    assert sum(e.id.startswith("r") for e in result.examples) >= 2  # of 12; at random 0.2 are expected


def test_same_seed_same_set():
    selected = [(query(f"s{i}", f"new thing {i}"), answer("yes")) for i in range(9)]
    pool = [trace(f"p{i}", f"old {i % 5} thing {i}", -0.01) for i in range(60)]
    assert build(selected, pool, seed=4).examples == build(selected, pool, seed=4).examples
    assert build(selected, pool, seed=4).examples != build(selected, pool, seed=5).examples


def test_redacts_alike_in_question_and_answer_and_can_be_turned_off():
    pair = [(query("a", "mail ann@corp.io about order 4111111111111111"), answer('{"to": "ann@corp.io"}'))]
    example = build(pair).examples[0]
    assert example.messages[0]["content"] == "mail person1@example.com about order 4111111111111111"
    assert example.answer == '{"to": "person1@example.com"}'
    assert build(pair).counts["redacted_email"] == 2
    plain = build(pair, config=CONFIG.model_copy(update={"redact_pii": False}))
    assert "ann@corp.io" in plain.examples[0].answer


def test_jsonl_round_trip_and_a_bad_line_is_named(tmp_path):
    path = tmp_path / "deep" / "set.jsonl"
    examples = build([(query("a", "naïve\u2028 wish"), answer("ja — gut"))]).examples
    write_training_examples(path, examples)
    assert tuple(read_training_examples(path)) == examples
    path.write_text(path.read_text() + '{"id": "b"}\n')
    with pytest.raises(InputError, match="Line 2"):
        read_training_examples(path)
    with pytest.raises(InputError, match="missing"):
        read_training_examples(tmp_path / "none.jsonl")


def test_normalise_levels_what_does_not_matter_only():
    assert normalise("Where's  my ORDER?") == normalise("where s my order")
    assert normalise("order 12") != normalise("order 13")
    assert normalise("??") != normalise("!!")
