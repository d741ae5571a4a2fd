from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from cascade.trace import Answer, Outcome, Query, Trace, Verdict
from clustering.collect import collect_escalations

START = datetime(2026, 3, 2, tzinfo=UTC)
END = START + timedelta(days=7)


def trace(name, *, hours=1.0, text="wish", cheap='{"a": 1}', flagship='{"a":1}', escalated=True, finish="stop", **more):
    values = {"time": START + timedelta(hours=hours), "audited": False, "cost": 0.002} | more
    return Trace(
        Query(name, values["time"], "r", ({"role": "user", "content": text},), user="u1"),
        Answer(cheap, "cheap", 9, 9, 0.1, "stop"),
        "v1",
        Verdict(Outcome.REJECT if escalated else Outcome.ACCEPT, 0.4, ()),
        escalated,
        values["audited"],
        0.01,
        None if flagship is None else Answer(flagship, "flagship", 9, 9, 0.5, finish),
        values["cost"],
    )


def collect(*traces, kind="json_exact", **more):
    return collect_escalations(traces, START, END, kind, **more)


def test_escalations_of_the_window_come_in_order_of_time():
    result = collect(trace("late", hours=50), trace("early", hours=0), trace("last", hours=167.9))
    assert [e.id for e in result.escalations] == ["early", "late", "last"]
    assert result.dropped == {}
    first = result.escalations[0]
    assert (first.text, first.user, first.cost_usd, first.query.id) == ("wish", "u1", 0.002, "early")


def test_what_is_left_out_is_counted_by_reason():
    result = collect(
        trace("kept"),
        trace("kept"),
        trace("before", hours=-0.1),
        trace("at the end", hours=168),
        trace("accepted", escalated=False, flagship=None),
        trace("audited", escalated=False, audited=True),
        trace("blank", text=" \n"),
    )
    assert [e.id for e in result.escalations] == ["kept"]
    assert result.dropped == {
        "empty text": 1,
        "not escalated": 2,
        "outside the window": 2,
        "same id twice": 1,
    }


def test_cheap_answers_are_graded_against_the_flagships():
    result = collect(
        trace("1 right"),
        trace("2 wrong", cheap='{"a": 2}'),
        trace("3 unparsed", cheap="a is 1"),
        trace("4 no flagship", flagship=None),
        trace("5 flagship cut", finish="length"),
        trace("6 flagship empty", flagship=" "),
    )
    ordered = sorted(result.escalations, key=lambda e: e.id)
    assert [e.cheap_correct for e in ordered] == [True, False, False, None, None, None]


def test_a_part_right_answer_may_count_from_a_given_grade():
    half = trace("half", cheap='{"a": 1, "b": 3}', flagship='{"a": 1, "b": 2}')
    assert collect(half, kind="json_f1").escalations[0].cheap_correct is False
    assert collect(half, kind="json_f1", right_at=0.5).escalations[0].cheap_correct is True


def test_times_without_a_zone_are_utc_and_others_are_compared_right():
    east = timezone(timedelta(hours=9))
    result = collect(
        trace("naive", time=datetime(2026, 3, 2, 0, 30)),
        trace("tokyo in", time=datetime(2026, 3, 2, 9, 0, tzinfo=east)),
        trace("tokyo out", time=datetime(2026, 3, 2, 8, 59, tzinfo=east)),
    )
    assert [e.id for e in result.escalations] == ["tokyo in", "naive"]


def test_an_unknown_cost_stays_unknown():
    assert collect(trace("a", cost=None)).escalations[0].cost_usd is None
