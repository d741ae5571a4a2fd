"""A cascade's log becomes traces; unusable rows are kept apart with their reasons."""

import json
from pathlib import Path
from typing import Any

import pytest

from cascade.cost import PriceTable
from cascade.errors import ConfigError, InputError
from cascade.ingest import ingest_log
from cascade.rows import MAX_LINE
from cascade.sql_store import SqlTraceStore

LIST = {
    "small": {"input_per_million": 1, "output_per_million": 1},
    "large": {"input_per_million": 100, "output_per_million": 100},
}
PRICES = PriceTable.model_validate({"prices": LIST})


def completion(model: str, text: str, usage: dict[str, int] | None = None) -> dict[str, Any]:
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": usage or {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20},
    }


def row(name: str, escalated: bool, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "time": "2026-11-02T09:15:00Z",
        "messages": [{"role": "user", "content": f"question {name}"}],
        "escalated": escalated,
        "cheap": completion("small", "cheap answer"),
        "flagship": completion("large", "flagship answer") if escalated else None,
        **more,
    }


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def test_a_log_becomes_priced_traces(tmp_path: Path) -> None:
    store = SqlTraceStore(tmp_path / "traces.db")
    audited = row("c", False, audit_propensity=0.02) | {"flagship": completion("large", "check")}
    log = write(tmp_path / "log.jsonl", [row("a", False), row("b", True), audited])
    done = ingest_log(log, store, PRICES, tmp_path / "rejected.jsonl")
    assert (done.n_new, done.n_known, done.n_rejected) == (3, 0, 0)
    traces = {trace.query.id: trace for trace in store.between(None, None)}
    assert traces["a"].served_text == "cheap answer"
    assert traces["a"].cost_usd == pytest.approx(20e-6)
    assert traces["b"].served_text == "flagship answer"
    assert traces["b"].cost_usd == pytest.approx(20e-6 + 2000e-6)
    assert traces["c"].audited and traces["c"].audit_cost_usd == pytest.approx(2000e-6)
    assert not (tmp_path / "rejected.jsonl").exists()


def test_loading_a_log_again_adds_nothing(tmp_path: Path) -> None:
    store = SqlTraceStore(tmp_path / "traces.db")
    log = write(tmp_path / "log.jsonl", [row(str(i), i % 2 == 0) for i in range(7)])
    ingest_log(log, store, PRICES, tmp_path / "rejected.jsonl")
    again = ingest_log(log, store, PRICES, tmp_path / "rejected.jsonl")
    assert (again.n_new, again.n_known, again.resumed_at) == (0, 0, log.stat().st_size)


def test_unusable_rows_are_kept_with_their_reasons(tmp_path: Path) -> None:
    no_cheap = row("x", True)
    del no_cheap["cheap"]
    bad_cheap = row("y", True) | {"cheap": {"choices": []}}
    no_flag = row("z", True)
    del no_flag["escalated"]
    log = write(tmp_path / "log.jsonl", [row("a", True), "{broken", no_cheap, bad_cheap, no_flag])
    done = ingest_log(log, SqlTraceStore(tmp_path / "t.db"), PRICES, tmp_path / "rejected.jsonl")
    assert (done.n_new, done.n_rejected) == (1, 4)
    rejected = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [r["line_number"] for r in rejected] == [2, 3, 4, 5]
    for found, said in zip(
        rejected, ["JSON", "cheap is missing", "cheap is not a chat completion", "escalated"], strict=True
    ):
        assert said in found["reason"]


def test_unknown_usage_makes_the_cost_unknown(tmp_path: Path) -> None:
    store = SqlTraceStore(tmp_path / "t.db")
    bare = row("a", True)
    bare["flagship"] = {key: value for key, value in completion("large", "x").items() if key != "usage"}
    ingest_log(write(tmp_path / "log.jsonl", [bare]), store, PRICES, tmp_path / "r.jsonl")
    assert store.between(None, None)[0].cost_usd is None


def test_a_missing_file_and_an_unpriced_model_are_named(tmp_path: Path) -> None:
    store = SqlTraceStore(tmp_path / "t.db")
    with pytest.raises(InputError, match="cannot read the log"):
        ingest_log(tmp_path / "none.jsonl", store, PRICES, tmp_path / "r.jsonl")
    log = write(tmp_path / "log.jsonl", [row("a", False) | {"cheap": completion("mystery", "x")}])
    with pytest.raises(ConfigError, match="mystery"):
        ingest_log(log, store, PRICES, tmp_path / "r.jsonl")


def test_a_grown_log_is_read_on_from_where_it_was(tmp_path: Path) -> None:
    store, rejected = SqlTraceStore(tmp_path / "t.db"), tmp_path / "r.jsonl"
    log = write(tmp_path / "log.jsonl", [row("a", True), "{broken"])
    ingest_log(log, store, PRICES, rejected)
    size = log.stat().st_size
    with log.open("a") as file:
        file.write(json.dumps(row("b", True)) + "\n[1, 2\n")
    done = ingest_log(log, store, PRICES, rejected)
    assert (done.n_new, done.n_known, done.n_rejected, done.resumed_at) == (1, 0, 1, size)
    assert [json.loads(line)["line_number"] for line in rejected.read_text().splitlines()] == [2, 4]


def test_a_line_that_is_still_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    store, rejected = SqlTraceStore(tmp_path / "t.db"), tmp_path / "r.jsonl"
    whole = json.dumps(row("b", True))
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps(row("a", True)) + "\n" + whole[:50])
    first = ingest_log(log, store, PRICES, rejected)
    assert (first.n_new, first.n_rejected) == (1, 1)
    assert ingest_log(log, store, PRICES, rejected).n_rejected == 0, "reported once"
    log.write_text(json.dumps(row("a", True)) + "\n" + whole + "\n")
    done = ingest_log(log, store, PRICES, rejected)
    assert (done.n_new, done.n_rejected) == (1, 0)
    assert store.ids() == {"a", "b"}


def test_a_last_line_without_its_line_break_counts(tmp_path: Path) -> None:
    store = SqlTraceStore(tmp_path / "t.db")
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps(row("a", True)))
    assert ingest_log(log, store, PRICES, tmp_path / "r").n_new == 1
    log.write_text(json.dumps(row("a", True)) + "\n" + json.dumps(row("b", True)))
    assert ingest_log(log, store, PRICES, tmp_path / "r").n_new == 1


def test_another_file_under_the_same_name_is_read_from_its_start(tmp_path: Path) -> None:
    store = SqlTraceStore(tmp_path / "t.db")
    log = write(tmp_path / "log.jsonl", [row("a", True), row("b", True)])
    ingest_log(log, store, PRICES, tmp_path / "r")
    write(log, [row("c", True), row("d", True), row("e", True)])  # rotated
    done = ingest_log(log, store, PRICES, tmp_path / "r")
    assert (done.n_new, done.resumed_at) == (3, 0)


def test_an_unpriced_model_stops_where_reading_can_go_on(tmp_path: Path) -> None:
    store = SqlTraceStore(tmp_path / "t.db")
    rows = [row(str(n), True) for n in range(1200)]
    log = write(tmp_path / "log.jsonl", [*rows, row("x", False) | {"cheap": completion("mystery", "x")}])
    with pytest.raises(ConfigError, match="mystery"):
        ingest_log(log, store, PRICES, tmp_path / "r.jsonl")
    assert store.count() == 1000
    priced = PriceTable.model_validate({"prices": {**LIST, "mystery": LIST["small"]}})
    done = ingest_log(log, store, priced, tmp_path / "r.jsonl")
    assert (done.n_new, done.n_known) == (201, 0)
    assert done.resumed_at > 0


def test_a_line_beyond_the_limit_is_rejected_and_passed(tmp_path: Path) -> None:
    store = SqlTraceStore(tmp_path / "t.db")
    log = tmp_path / "log.jsonl"
    good = json.dumps(row("a", True)).encode()
    log.write_bytes(b"x" * (MAX_LINE + 5) + b"\n" + good + b"\n")
    done = ingest_log(log, store, PRICES, tmp_path / "r.jsonl")
    assert (done.n_new, done.n_rejected) == (1, 1)
    found = json.loads((tmp_path / "r.jsonl").read_text())
    assert found["line_number"] == 1 and f"{MAX_LINE + 5:,} bytes" in found["reason"]
