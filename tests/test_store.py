from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from loopback import make_query
from sqlalchemy.exc import StatementError

from cascade.errors import ConfigError
from cascade.store import SqlTraceStore
from cascade.trace import Answer, Outcome, TokenConfidence, Trace, Verdict

CHEAP = Answer("{}", "small", 10, 3, 0.1, "stop", TokenConfidence(3, -0.1, -0.3, -0.2, 0.05))


def make_trace(number, **fields):
    base = Trace(
        query=make_query(number, schema={"type": "object"}),
        cheap=CHEAP,
        cheap_version="v1",
        verdict=Verdict(Outcome.REJECT, 0.4, ("low confidence",)),
        escalated=True,
        audited=False,
        audit_propensity=0.02,
        flagship=Answer("{}", "large", 12, None, None, "stop"),
        cost_usd=None,
        audit_cost_usd=0.0,
    )
    return replace(base, **fields)


@pytest.fixture
def store(tmp_path):
    opened = SqlTraceStore(tmp_path / "deep" / "traces.db")
    yield opened
    opened.close()


def test_traces_read_back_equal(store):
    accepted = Verdict(Outcome.ACCEPT, None, ())
    traces = [make_trace(1), make_trace(2, verdict=accepted, escalated=False, flagship=None, cost_usd=0.5)]
    assert store.add(traces) == 2
    assert store.between(None, None) == traces
    assert store.ids() == {"q0001", "q0002"}
    assert store.count() == 2


def test_an_id_is_stored_once(store):
    store.add([make_trace(1)])
    assert store.add([make_trace(1, cheap_version="v2"), make_trace(2)]) == 1
    assert [trace.cheap_version for trace in store.between(None, None)] == ["v1", "v1"]


def test_add_is_all_or_nothing(store):
    broken = make_trace(3, cheap_version=object())
    with pytest.raises(StatementError):
        store.add([make_trace(2), broken])
    assert store.count() == 0


def test_a_window_is_half_open_and_counts_in_real_time(store):
    store.add([make_trace(n) for n in (3, 1, 2, 0)])
    start = datetime(2026, 3, 1, tzinfo=UTC)
    found = store.between(start + timedelta(minutes=1), start + timedelta(minutes=3))
    assert [trace.query.id for trace in found] == ["q0001", "q0002"]
    elsewhere = (start + timedelta(minutes=3)).astimezone(timezone(timedelta(hours=9)))
    assert [trace.query.id for trace in store.between(elsewhere, None)] == ["q0003"]
    assert [trace.query.id for trace in store.between(None, start.replace(tzinfo=None) + timedelta(minutes=1))] == [
        "q0000"
    ]


def test_a_second_connection_sees_what_was_written(store, tmp_path):
    store.add([make_trace(1)])
    other = SqlTraceStore(f"sqlite:///{tmp_path / 'deep' / 'traces.db'}")
    assert other.ids() == {"q0001"}
    other.close()


@pytest.mark.parametrize("url", ["mysql://host/db", "nonsense://x", "://"])
def test_a_url_that_cannot_be_used_is_a_config_error(url):
    with pytest.raises(ConfigError):
        SqlTraceStore(url)


def test_a_file_that_is_no_database_is_a_config_error(tmp_path):
    (tmp_path / "x.db").write_text("this is text, and long enough to be no database header at all" * 20)
    with pytest.raises(ConfigError, match="cannot open"):
        SqlTraceStore(tmp_path / "x.db")
