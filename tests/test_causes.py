"""Why queries escalated: each cause, and what near-identical means."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from cascade.trace import Answer, Query
from clustering.causes import Cause, CausesConfig, count_causes, find_causes
from clustering.collect import Escalation

TIME = datetime(2026, 3, 2, tzinfo=UTC)


def escalation(text, flagship="book", right=False, finish="stop"):
    query = Query(text, TIME, "r", ({"role": "user", "content": text},))
    answer = None if flagship is None else Answer(flagship, "flagship", 1, 1, 0.1, finish)
    correct = None if flagship is None else right
    return Escalation(text, TIME, text, query, Answer("x", "cheap", 1, 1, 0.1, "stop"), answer, correct, None, 0.01)


def causes(rows, vectors=None, labels=None, kind="exact", **config):
    vectors = np.eye(len(rows), dtype=np.float32) if vectors is None else np.asarray(vectors, np.float32)
    labels = np.zeros(len(rows), np.int64) if labels is None else np.asarray(labels)
    return find_causes(rows, vectors, labels, kind, CausesConfig(**config))


SAME = [[1, 0], [1, 0], [1, 0]]


def test_each_cause():
    rows = [
        escalation("a"),
        escalation("b", right=True),
        escalation("c", flagship="I'm sorry, I cannot help with that."),
        escalation("d", flagship=" OOS "),
        escalation("e", flagship=None),
        escalation("f", finish="length"),
    ]
    found = causes(rows, out_of_scope_answers=("oos",))
    assert found == [
        Cause.CHEAP_WRONG,
        Cause.RIGHT_REJECTED,
        Cause.OUT_OF_SCOPE,
        Cause.OUT_OF_SCOPE,
        Cause.UNKNOWN,
        Cause.UNKNOWN,
    ]
    assert count_causes(found) == {
        "cheap wrong": 1,
        "right but rejected": 1,
        "flagship doubtful": 0,
        "out of scope": 2,
        "unknown": 2,
    }


def test_the_flagship_is_doubtful_where_it_answers_the_same_query_differently():
    rows = [escalation("please book me a table", flagship=f"intent {n}") for n in ("one", "two", "three")]
    assert causes(rows, SAME) == [Cause.FLAGSHIP_DOUBTFUL] * 3
    agreeing = [escalation("please book me a table", flagship="intent one") for _ in range(3)]
    assert causes(agreeing, SAME) == [Cause.CHEAP_WRONG] * 3


def test_one_dissenter_among_copies_is_the_doubtful_one():
    rows = [escalation("a table please", flagship=answer) for answer in ("x", "x", "x", "y")]
    assert causes(rows, [[1, 0]] * 4) == [Cause.CHEAP_WRONG] * 3 + [Cause.FLAGSHIP_DOUBTFUL]


def test_answers_that_repeat_the_words_in_which_queries_differ_differ_rightly():
    rows = [escalation(f"cancel order {n}", flagship=f'{{"order": {n}}}') for n in (17, 18, 19)]
    assert causes(rows, SAME, kind="json_exact") == [Cause.CHEAP_WRONG] * 3


def test_queries_of_one_frame_with_other_words_are_not_near_identical():
    rows = [escalation(f"who won the {word} last year", flagship=f"fact {n}") for n, word in enumerate("abc")]
    assert causes(rows, SAME) == [Cause.FLAGSHIP_DOUBTFUL] * 3, "five of seven words in common"
    rows = [escalation(f"who won the {word} of {word}land", flagship=f"fact {n}") for n, word in enumerate("abc")]
    assert causes(rows, SAME) == [Cause.CHEAP_WRONG] * 3, "four of eight"


def test_far_queries_and_other_clusters_are_not_compared():
    rows = [escalation("a table", flagship="x"), escalation("a table", flagship="y")]
    assert causes(rows, np.eye(2)) == [Cause.CHEAP_WRONG] * 2
    assert causes(rows, SAME[:2], labels=[0, 1]) == [Cause.CHEAP_WRONG] * 2
    assert causes(rows, SAME[:2], labels=[0, 0]) == [Cause.FLAGSHIP_DOUBTFUL] * 2


def test_no_escalations():
    assert find_causes([], np.empty((0, 4), np.float32), np.empty(0, np.int64), "exact") == []
