"""A run's window of traces is copied into three parts, the same from every store, without parsing a trace."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from databases import STORES, place
from loopback import make_query
from test_forget import settings
from test_store import HOUR, START, accepted, at, ids, make_trace

from cascade.errors import InputError, StoreError
from cascade.lake import LakeTraceStore
from cascade.trace import trace_from_dict, trace_to_dict
from flows.context import RunContext, open_state
from flows.records import load_traces
from flows.rundir import RunDir, read_jsonl
from flows.stages import collect
from flows.window import MIN_PART, copy_traces, split_window


def served(number):
    asked = make_query(number, text=f"snow ☃ \u2028 line {number}\n")
    query = replace(asked, time=START + number * HOUR)
    return make_trace(number, query=query) if number % 3 == 0 else accepted(number, query=query)


TRACES = [served(number) for number in range(160)]


@pytest.fixture(params=STORES)
def ctx(request, tmp_path) -> RunContext:
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    config = settings(tmp_path, place(request.param, tmp_path, server))
    state = open_state(config)
    state.traces.add(TRACES)
    return RunContext(config, RunDir(tmp_path / "run"), START, START + timedelta(days=30), "v1", state)


def test_the_parts_are_the_windows_traces_in_order_of_time(ctx):
    config = ctx.config.window.model_copy(update={"pool": 0.35, "calibration": 0.33})
    ctx = RunContext(ctx.config.model_copy(update={"window": config}), ctx.run, ctx.since, ctx.until, "v1", ctx.state)
    counts = collect(ctx).counts
    assert counts == {"traces": 160, "pool": 56, "calibration": 53, "heldout": 51, "escalated_as_served": 54}
    assert [trace for part in ("pool", "calibration", "heldout") for trace in load_traces(ctx, part)] == TRACES


def test_a_window_without_enough_traces_says_what_to_do(ctx):
    parts = split_window(range(1000), ctx.config.window, ctx.since, ctx.until, 0)
    assert [i for part in parts.values() for i in part] == list(range(1000))
    assert list(parts) == ["pool", "calibration", "heldout"]
    with pytest.raises(InputError, match=f"at least {MIN_PART} are needed in each: serve more traffic"):
        split_window(range(100), ctx.config.window, ctx.since, ctx.until, 0)


def test_what_comes_in_while_traces_are_copied_waits_and_what_goes_is_an_error(ctx, tmp_path):
    store = ctx.state.traces
    listed = store.ids_between(ctx.since, ctx.until)
    assert listed == ids(TRACES)
    store.add([at(900, START + timedelta(minutes=1)), at(901, START + 40 * HOUR)])
    parts = {"pool": listed[:100], "rest": listed[100:]}
    assert copy_traces(ctx, tmp_path, parts) == 54
    copied = [row["query"]["id"] for part in parts for row in read_jsonl(tmp_path / f"{part}.jsonl")]
    assert copied == listed
    assert copy_traces(ctx, tmp_path, {"pool": listed[:100:7], "rest": listed[100::9]}) > 0  # samples
    assert [row["query"]["id"] for row in read_jsonl(tmp_path / "rest.jsonl")] == listed[100::9]
    (tmp_path / "rest.jsonl").unlink()
    store.remove(["q0100"])
    with pytest.raises(StoreError, match="1 of the window's traces were deleted while they were copied"):
        copy_traces(ctx, tmp_path, parts)
    assert not (tmp_path / "rest.jsonl").exists() and not list(tmp_path.glob(".rest*"))


def test_lines_are_the_traces_unparsed(ctx):
    store = ctx.state.traces
    if isinstance(store, LakeTraceStore):
        store = LakeTraceStore(ctx.config.traces.removeprefix("lake:"), piece=7)  # a day in many pieces
    odd = make_trace(700, cheap=None, cost_usd=1e-9, cheap_version='v "1" ☃', audit_cost_usd=None)
    store.add([odd])
    for window in ((None, None), (START + HOUR, START + 30 * HOUR), (START + 900 * HOUR, None)):
        lines = list(store.lines(*window))
        traces = store.between(*window)
        assert [line.id for line in lines] == store.ids_between(*window) == ids(traces)
        assert [line.escalated for line in lines] == [trace.escalated for trace in traces]
        assert [trace_from_dict(json.loads(line.text)) for line in lines] == traces
        assert [json.loads(line.text) for line in lines] == [trace_to_dict(trace) for trace in traces]
        assert not any("\n" in line.text or not line.text.isascii() for line in lines)
