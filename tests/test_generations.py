"""Exports of LiteLLM and Langfuse become traces: calls that share a trace id are one query."""

import json
from contextlib import closing

import pytest
from test_ingest import PRICES, completion

from cascade.errors import ConfigError
from cascade.ingest import ingest_log
from cascade.pairs import CascadeModels
from cascade.sql_store import SqlTraceStore
from cascade.trace import Outcome
from cascade.users import SALT_ENV, user_key

MODELS = CascadeModels(cheap="small", flagship="large")
T0 = 1_762_000_000  # 2025-11-01


def litellm_call(trace, model, minute=0, **fields):
    """A StandardLoggingPayload, as a LiteLLM callback writes it."""
    start = T0 + 60 * minute + (5 if model == "large" else 0)
    return {
        "id": f"chatcmpl-{trace}-{model}",
        "trace_id": trace,
        "call_type": "acompletion",
        "status": "success",
        "startTime": float(start),
        "endTime": start + 0.5,
        "model": model,
        "model_group": model,
        "messages": [{"role": "user", "content": f"question of {trace}"}],
        "response": completion(model, f"{model} answer"),
        "prompt_tokens": 10,
        "completion_tokens": 10,
        "response_cost": 0.5,
        "end_user": "ana@example.com",
        "request_tags": [],
        "metadata": {"user_api_key_hash": "x", "requester_metadata": {"route": "support"}},
    } | fields


def spend_log(trace, model, minute=0, **fields):
    """A row of LiteLLM_SpendLogs as a database exports it: JSON columns as text, times without a zone."""
    call = litellm_call(trace, model, minute)
    second = 5 if model == "large" else 0
    return {
        "request_id": call["id"],
        "session_id": trace,
        "call_type": "acompletion",
        "startTime": f"2025-11-01 12:{minute:02d}:{second:02d}.000",
        "endTime": f"2025-11-01 12:{minute:02d}:{second:02d}.500",
        "model": f"openai/{model}",
        "model_group": "",
        "messages": "{}",
        "proxy_server_request": json.dumps({"messages": call["messages"]}),
        "response": json.dumps(call["response"]),
        "prompt_tokens": 10,
        "completion_tokens": 10,
        "spend": 0.5,
        "end_user": "",
        "user": "ana@example.com",
        "metadata": "{}",
        "request_tags": "[]",
    } | fields


def langfuse_call(trace, model, minute=0, **fields):
    """An enriched observation of Langfuse's blob storage export."""
    hour, rest = divmod(minute, 60)
    start = f"2025-11-{1 + hour // 24:02d} {hour % 24:02d}:{rest:02d}:{5 if model == 'large' else 0:02d}"
    return {
        "id": f"{trace}-{model}",
        "trace_id": trace,
        "type": "GENERATION",
        "level": "DEFAULT",
        "start_time": f"{start}.000000",
        "end_time": f"{start}.500000",
        "provided_model_name": model,
        "input": json.dumps([{"role": "user", "content": f"question of {trace}"}]),
        "output": json.dumps({"role": "assistant", "content": f"{model} answer"}),
        "usage_details": {"input": 10, "output": 10, "total": 20},
        "total_cost": 0.5,
        "user_id": "ana@example.com",
        "tags": [],
        "metadata": {"route": "support"},
    } | fields


def langfuse_api(trace, model, minute=0, **fields):
    """An observation of Langfuse's API and download."""
    blob = langfuse_call(trace, model, minute)
    return {
        "id": blob["id"],
        "traceId": trace,
        "type": "GENERATION",
        "startTime": blob["start_time"].replace(" ", "T")[:-3] + "Z",
        "endTime": blob["end_time"].replace(" ", "T")[:-3] + "Z",
        "model": model,
        "input": {"messages": [{"role": "user", "content": [{"type": "text", "text": f"question of {trace}"}]}]},
        "output": f"{model} answer",
        "usage": {"input": 10, "output": 10, "unit": "TOKENS"},
        "calculatedTotalCost": 0.5,
        "level": "DEFAULT",
        "metadata": {"route": "support", "user_id": "ana@example.com"},
    } | fields


LITELLM = (litellm_call("t", "small"), litellm_call("t", "large"), spend_log("t", "small"))
LANGFUSE_BLOB = (langfuse_call("t", "small"), langfuse_call("t", "large"), langfuse_api("t", "small"))
KINDS = [("litellm", litellm_call), ("litellm", spend_log), ("langfuse", langfuse_call), ("langfuse", langfuse_api)]
names = pytest.mark.parametrize(("log_format", "call"), KINDS, ids=["payload", "spend log", "blob", "api"])


@pytest.fixture
def store(tmp_path):
    with closing(SqlTraceStore(tmp_path / "traces.db")) as opened:
        yield opened


def load(store, folder, log_format, rows, models=MODELS, *, complete=True, name="log.jsonl"):
    log = folder / name
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ingest_log(log, store, PRICES, folder / "rejected.jsonl", log_format, models, complete=complete)


def rejected(folder):
    return [json.loads(line)["reason"] for line in (folder / "rejected.jsonl").read_text().splitlines()]


@names
def test_two_calls_of_one_trace_are_an_escalation_and_one_is_an_acceptance(store, tmp_path, log_format, call):
    rows = [call("a", "small"), call("a", "large"), call("b", "small", 1)]
    done = load(store, tmp_path, log_format, rows)
    assert (done.n_new, done.n_rejected, done.n_waiting) == (2, 0, 0)
    first, second = store.between(None, None)
    assert first.query.id.startswith("a:") and second.query.id.startswith("b:")
    assert first.escalated and first.verdict.outcome is Outcome.REJECT
    assert first.served_text == "large answer"
    assert first.cost_usd == pytest.approx(20e-6 + 2000e-6)  # the price table's, not the log's
    assert first.cheap.latency_s == pytest.approx(0.5)
    assert first.query.text == "question of a"
    assert first.query.user == user_key("ana@example.com")
    assert not second.escalated and second.flagship is None
    assert second.cost_usd == pytest.approx(20e-6)


@names
def test_order_does_not_matter(store, tmp_path, log_format, call):
    rows = [call(f"t{n}", model, n % 60) for n in range(50) for model in ("small", "large")][::-1]
    done = load(store, tmp_path, log_format, rows)
    assert (done.n_new, done.n_rejected) == (50, 0)
    assert len(store.escalated(None, None)) == 50


@names
def test_failed_and_foreign_calls_are_counted_not_rejected(store, tmp_path, log_format, call):
    failed = {"status": "failure", "level": "ERROR"}
    rows = [call("a", "small"), call("b", "small", **failed), call("c", "third"), call("d", "large", **failed)]
    done = load(store, tmp_path, log_format, rows)
    assert (done.n_new, done.n_rejected) == (1, 0)
    assert sorted(done.n_other.values()) == [1, 2]
    assert done.n_other["failed call"] == 2


def test_other_kinds_are_counted(store, tmp_path):
    done = load(store, tmp_path, "langfuse", [langfuse_call("a", "small", type="SPAN")])
    assert done.n_other == {"span observation": 1}
    done = load(store, tmp_path, "litellm", [litellm_call("a", "small", call_type="aembedding")], name="b.jsonl")
    assert done.n_other == {"aembedding call": 1}


def test_a_flagship_call_alone_is_rejected_or_routed(store, tmp_path):
    done = load(store, tmp_path, "litellm", [litellm_call("a", "large")])
    assert (done.n_new, done.n_rejected) == (0, 1)
    assert "no call of small in trace a" in rejected(tmp_path)[0]
    routed = CascadeModels(cheap="small", flagship="large", routed=True)
    load(store, tmp_path, "litellm", [litellm_call("a", "large")], routed, name="again.jsonl")
    (trace,) = store.between(None, None)
    assert trace.routed and trace.escalated and trace.cost_usd == pytest.approx(2000e-6)
    assert trace.verdict.outcome is Outcome.UNPARSED


def test_an_audit_is_told_by_its_tag_or_by_metadata(store, tmp_path):
    models = CascadeModels(cheap="small", flagship="large", audit_rate=0.02)
    rows = [
        litellm_call("tag", "small"),
        litellm_call("tag", "large", request_tags=["audit"]),
        litellm_call("said", "small", metadata={"spend_logs_metadata": {"escalated": False}}),
        litellm_call("said", "large"),
    ]
    load(store, tmp_path, "litellm", rows, models)
    for trace in store.between(None, None):
        assert trace.audited and not trace.escalated
        assert trace.audit_propensity == 0.02
        assert trace.audit_cost_usd == pytest.approx(2000e-6)


def test_one_session_may_hold_many_queries_and_retries(store, tmp_path):
    def ask(text, model, second, answer):
        return litellm_call(
            "session", model, messages=[{"role": "user", "content": text}], startTime=float(T0 + second),
            response=completion(model, answer),
        )  # fmt: skip

    rows = [ask("one", "small", 0, "first try"), ask("one", "small", 3, "second try"), ask("two", "small", 9, "x")]
    load(store, tmp_path, "litellm", [*rows, ask("one", "large", 5, "y")])
    traces = {trace.query.text: trace for trace in store.between(None, None)}
    assert traces["one"].escalated and traces["one"].cheap.text == "second try"
    assert not traces["two"].escalated


def test_the_last_minutes_wait_for_their_other_call(store, tmp_path):
    early = [litellm_call("a", "small"), litellm_call("a", "large"), litellm_call("b", "small", 30)]
    done = load(store, tmp_path, "litellm", early, complete=False)
    assert (done.n_new, done.n_waiting) == (1, 1)
    again = load(store, tmp_path, "litellm", early, complete=False)
    assert (again.n_new, again.n_known, again.n_waiting) == (0, 0, 1)
    grown = [*early, litellm_call("b", "large", 30), litellm_call("c", "small", 90)]
    done = load(store, tmp_path, "litellm", grown, complete=False)
    assert (done.n_new, done.n_known, done.n_rejected, done.n_waiting) == (1, 0, 0, 1)
    final = load(store, tmp_path, "litellm", grown, complete=True)
    assert (final.n_new, final.n_known, final.n_rejected, final.n_waiting) == (1, 0, 0, 0)
    assert [(t.query.id[0], t.escalated) for t in store.between(None, None)] == [("a", True), ("b", True), ("c", False)]


def test_what_settled_behind_a_waiting_query_is_not_read_again(store, tmp_path):
    """The waiting query's line lies before the flagship call of a settled one, whose cheap call lies before it."""
    slow = CascadeModels(cheap="small", flagship="large", settle_s=60)
    rows = [litellm_call("a", "small"), litellm_call("w", "small", 0, startTime=float(T0 + 200)), "broken"]
    rows += [litellm_call("a", "large", 0, startTime=float(T0 + 20)), litellm_call("x", "small", 4)]
    done = load(store, tmp_path, "litellm", rows, slow, complete=False)
    assert done.n_rejected == 1 + 1  # the broken line, and a's flagship call, which came too late in the file
    again = load(store, tmp_path, "litellm", rows, slow, complete=False)
    assert (again.n_new, again.n_known, again.n_rejected) == (0, 0, 0)
    assert len(rejected(tmp_path)) == 2


def test_a_json_list_is_read_whole(store, tmp_path):
    log = tmp_path / "export.json"
    log.write_text(json.dumps([langfuse_api("a", "small"), langfuse_api("a", "large"), 5], indent=1))
    for expected in (1, 0):
        done = ingest_log(log, store, PRICES, tmp_path / "rejected.jsonl", "langfuse", MODELS)
        assert (done.n_new, done.n_rejected, done.n_waiting) == (expected, 1, 0)
        assert rejected(tmp_path) == ["not a JSON object but int"]


def test_cached_tokens_count(store, tmp_path):
    usage = {"input": 4, "input_cached_tokens": 6, "output": 10, "total": 20}
    load(store, tmp_path, "langfuse", [langfuse_call("a", "small", usage_details=usage)])
    assert store.between(None, None)[0].cheap.tokens_in == 10


def test_unknown_tokens_fall_back_on_the_logged_cost(store, tmp_path):
    load(store, tmp_path, "langfuse", [langfuse_call("a", "small", usage_details={})])
    assert store.between(None, None)[0].cost_usd == 0.5


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"trace_id": None}, "no trace_id or session_id"),
        ({"messages": "{}"}, "store_prompts_in_spend_logs"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "something else than text"),
        ({"startTime": 9e12}, "is no time of this century"),
        ({"response": {"choices": []}}, "no choices in it"),
        ({"response": None}, "no text in the answer"),
        ({"model": None, "model_group": None}, "no model name"),
        ({"messages": '[{"role": "user", "content": "\\ud800"}]'}, "surrogate"),
    ],
)
def test_a_bad_call_says_why(store, tmp_path, fields, reason):
    load(store, tmp_path, "litellm", [litellm_call("a", "small") | fields])
    assert reason in rejected(tmp_path)[0]


def test_the_models_must_be_named(store, tmp_path):
    with pytest.raises(ConfigError, match="needs the names of the cheap model"):
        load(store, tmp_path, "litellm", [], None)


def test_user_keys_depend_on_the_salt(monkeypatch):
    monkeypatch.delenv(SALT_ENV, raising=False)
    plain = user_key("ana")
    assert len(plain) == 32 and plain == user_key("ana", "") != user_key("ben")
    monkeypatch.setenv(SALT_ENV, "pepper")
    assert user_key("ana") == user_key("ana", "pepper") != plain
