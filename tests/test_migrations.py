"""Databases of older versions are brought up to date; those of newer ones are refused."""

import json
import sqlite3
from contextlib import closing

import pytest
import sqlalchemy as sa
from databases import DATABASES, place
from test_store import START, accepted, ids, make_trace

from cascade.database import connect
from cascade.errors import StoreError
from cascade.sql_store import _METADATA, TRACES, SqlTraceStore
from cascade.store import Span, to_row

BEFORE_MIGRATIONS = """
CREATE TABLE traces (
    query_id VARCHAR NOT NULL, time_us BIGINT NOT NULL, route VARCHAR NOT NULL, version VARCHAR NOT NULL,
    escalated BOOLEAN NOT NULL, audited BOOLEAN NOT NULL, audit_propensity FLOAT NOT NULL, cost_usd FLOAT,
    audit_cost_usd FLOAT, query JSON NOT NULL, cheap JSON NOT NULL, verdict JSON NOT NULL, flagship JSON,
    PRIMARY KEY (query_id));
CREATE INDEX ix_traces_time_us ON traces (time_us);
"""
OLD_COLUMNS = [column.name for column in TRACES.columns if column.name != "user_key"]


@pytest.fixture(params=DATABASES)
def url(request, tmp_path):
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    found = place(request.param, tmp_path, server)
    if request.param == "sqlite":
        (tmp_path / "deep").mkdir()
        return f"sqlite:///{found}"
    return found


def old_row(trace):
    """The row that the version before migrations wrote: no user column, a verdict without the later fields."""
    row = to_row(trace)
    verdict = {key: row["verdict"][key] for key in ("outcome", "p_wrong", "reasons")}
    values = {**row, "verdict": verdict}
    return {k: json.dumps(v) if isinstance(v, dict) else v for k, v in values.items() if k in OLD_COLUMNS}


def make_old(url, traces):
    engine = connect(url)
    names = ", ".join(OLD_COLUMNS)
    marks = ", ".join(
        f"CAST(:{n} AS JSON)" if n in ("query", "cheap", "verdict", "flagship") and "postgres" in url else f":{n}"
        for n in OLD_COLUMNS
    )
    with engine.begin() as connection:
        for statement in filter(str.strip, BEFORE_MIGRATIONS.split(";")):
            connection.exec_driver_sql(statement)
        for trace in traces:
            connection.execute(sa.text(f"INSERT INTO traces ({names}) VALUES ({marks})"), old_row(trace))
    engine.dispose()


def by(number, user):
    trace = make_trace(number)
    return type(trace)(**{**{n: getattr(trace, n) for n in trace.__slots__}, "query": _query(trace.query, user)})


def _query(query, user):
    return type(query)(**{**{n: getattr(query, n) for n in query.__slots__}, "user": user})


def test_a_database_from_before_migrations_is_upgraded(url):
    traces = [by(1, "ana"), accepted(2), by(3, "ben")]
    make_old(url, traces)
    for _ in range(2):  # the second opening finds nothing to do
        with closing(SqlTraceStore(url)) as store:
            assert store.between(None, None) == traces
            assert [query.id for query in store.queries(["ana"], None)] == ["q0001"]
            assert ids(store.escalated(None, None)) == ["q0001", "q0003"]
    with closing(SqlTraceStore(url)) as store:
        assert store.add([make_trace(1), make_trace(4)]) == 1
        store.set_watermark("log", {"offset": 3})
        assert store.span() == Span(traces[0].query.time, START.replace(minute=4))


def test_migrations_make_the_tables_that_the_store_uses(url):
    SqlTraceStore(url).close()
    engine = connect(url)
    found = sa.inspect(engine)
    for table in _METADATA.sorted_tables:
        made = {c["name"]: (type(c["type"])._type_affinity, c["nullable"]) for c in found.get_columns(table.name)}
        assert made == {c.name: (type(c.type)._type_affinity, c.nullable) for c in table.columns}
    assert {index["name"] for index in found.get_indexes("traces")} >= {
        "ix_traces_time",
        "ix_traces_escalated",
        "ix_traces_user_key",
    }
    engine.dispose()


def test_a_newer_database_is_refused_in_one_sentence(url):
    SqlTraceStore(url).close()
    engine = connect(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE traces_revision SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StoreError, match=r"revision 9999.*written by a newer cascade-distill") as caught:
        SqlTraceStore(url)
    assert "\n" not in str(caught.value)


def test_escalations_are_read_from_their_own_index(tmp_path):
    path = tmp_path / "traces.db"
    with closing(SqlTraceStore(path)) as store:
        store.add([make_trace(n) if n % 3 == 0 else accepted(n) for n in range(300)])
    with closing(sqlite3.connect(path)) as db:
        plan = db.execute(
            "EXPLAIN QUERY PLAN SELECT * FROM traces WHERE time_us >= 1 AND time_us < 9 AND traces.escalated = 1"
            " ORDER BY time_us, query_id"
        ).fetchall()
    assert "ix_traces_escalated" in str(plan) and "TEMP B-TREE" not in str(plan)


def test_two_processes_may_open_a_new_database_at_once(url):
    from concurrent.futures import ThreadPoolExecutor

    def opened(_):
        with closing(SqlTraceStore(url)) as store:
            return store.add([make_trace(1)])

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(opened, range(6))) == 1
