"""A cascade's log becomes traces; unusable rows are kept apart with their reasons."""

import json
from pathlib import Path
from typing import Any

import pytest

from cascade.cost import PriceTable
from cascade.errors import ConfigError, InputError
from cascade.ingest import ingest_log
from cascade.sql_store import SqlTraceStore

PRICES = PriceTable.model_validate(
    {
        "prices": {
            "small": {"input_per_million": 1, "output_per_million": 1},
            "large": {"input_per_million": 100, "output_per_million": 100},
        }
    }
)


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
