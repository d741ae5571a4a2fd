"""Single model calls in the exports of LiteLLM and Langfuse, in one form. `cascade.pairs` makes traces of them.

LiteLLM: the StandardLoggingPayload that its callbacks write (docs.litellm.ai/docs/proxy/logging_spec), and rows of the
proxy's table LiteLLM_SpendLogs (schema.prisma in github.com/BerriAI/litellm), as a database or /spend/logs gives them.
Langfuse: observations as the API and the download give them (camelCase; fern/apis/server/definition/commons.yml in
github.com/langfuse/langfuse), and as the blob storage export writes them (snake_case;
langfuse.com/docs/api-and-data-platform/features/blob-storage-export-fields).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cascade.client import answer_from_completion
from cascade.rows import check_sound
from cascade.trace import Answer, Message
from cascade.users import user_key


class Other(ValueError):  # noqa: N818 - it says what the row is
    """The row is no usable call of either model, and no fault: it is counted, not rejected."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One call of one model."""

    trace_id: str
    time: datetime
    names: tuple[str, ...]
    """Names under which the model may be known."""
    messages: tuple[Message, ...]
    answer: Answer
    user: str | None
    """Hashed."""
    route: str
    tags: tuple[str, ...]
    escalated: bool | None
    """What the log itself says, in its metadata."""
    cost_usd: float | None
    """As logged; counts where the tokens are unknown."""


def from_litellm(row: dict[str, Any]) -> Generation:
    """One LiteLLM row. Raises Other for a failed call or another kind, ValueError with the reason for a bad row."""
    if str(row.get("status") or "success") != "success":
        raise Other("failed call")
    if "completion" not in str(row.get("call_type") or "completion"):
        raise Other(f"{str(row['call_type'])[:40]} call")
    start, end = _time(row.get("startTime"), "startTime"), _time_or_none(row.get("endTime"))
    metadata = _mapping(row.get("metadata"))
    inner = (metadata, _mapping(metadata.get("requester_metadata")), _mapping(metadata.get("spend_logs_metadata")))
    trace_id = _first_text([row.get("trace_id"), row.get("session_id"), *(m.get("trace_id") for m in inner)])
    if trace_id is None:
        raise ValueError("no trace_id or session_id: nothing says which calls belong to one query")
    answer = _answer(_decoded(row.get("response")), _first_text([row.get("model")]) or "unknown")
    if answer.tokens_in is None:
        answer = replace(answer, tokens_in=_count(row.get("prompt_tokens")))
    if answer.tokens_out is None:
        answer = replace(answer, tokens_out=_count(row.get("completion_tokens")))
    user = _first_text([row.get("end_user"), row.get("user"), metadata.get("user_api_key_user_id")])
    return Generation(
        trace_id=trace_id,
        time=start,
        names=_names(row.get("model"), row.get("model_group")),
        messages=_messages(_prompt(row)),
        answer=replace(answer, latency_s=_between(start, end)),
        user=None if user is None else user_key(user),
        route=_first_text([m.get("route") for m in inner]) or "default",
        tags=_tags(row.get("request_tags")),
        escalated=next((m["escalated"] for m in inner if isinstance(m.get("escalated"), bool)), None),
        cost_usd=_amount(row.get("response_cost", row.get("spend"))),
    )


def from_langfuse(row: dict[str, Any]) -> Generation:
    """One Langfuse observation. Raises Other for what is no generation, ValueError with the reason for a bad row."""
    row = {_snake(key): value for key, value in row.items()}
    kind = row.get("type")
    if not isinstance(kind, str) or not kind:
        raise ValueError("no type: not an observation")
    if kind.upper() != "GENERATION":
        raise Other(f"{kind[:40].lower()} observation")
    if str(row.get("level") or "").upper() == "ERROR":
        raise Other("failed call")
    trace_id = _first_text([row.get("trace_id")])
    if trace_id is None:
        raise ValueError("no traceId: nothing says which calls belong to one query")
    start, end = _time(row.get("start_time"), "startTime"), _time_or_none(row.get("end_time"))
    usage = {_snake(k): v for k, v in (_mapping(row.get("usage_details")) or _mapping(row.get("usage"))).items()}
    model = _first_text([row.get("provided_model_name"), row.get("model")])
    answer = _answer(_decoded(row.get("output")), model or "unknown")
    metadata = _mapping(row.get("metadata"))
    user = _first_text([row.get("user_id"), metadata.get("user_id")])
    costs = _mapping(row.get("cost_details"))
    return Generation(
        trace_id=trace_id,
        time=start,
        names=_names(row.get("provided_model_name"), row.get("model")),
        messages=_messages(_decoded(row.get("input"))),
        answer=replace(
            answer,
            tokens_in=_used(usage, "input", "prompt_tokens"),
            tokens_out=_used(usage, "output", "completion_tokens"),
            latency_s=_between(start, end),
        ),
        user=None if user is None else user_key(user),
        route=_first_text([metadata.get("route"), row.get("trace_name")]) or "default",
        tags=_tags(row.get("tags")) + _tags(metadata.get("tags")),
        escalated=metadata["escalated"] if isinstance(metadata.get("escalated"), bool) else None,
        cost_usd=_amount(row.get("total_cost", row.get("calculated_total_cost", costs.get("total")))),
    )


def _prompt(row: dict[str, Any]) -> Any:
    messages = _decoded(row.get("messages"))
    if not messages:
        messages = _mapping(row.get("proxy_server_request")).get("messages")
    if not messages:
        raise ValueError("no messages in it: turn on store_prompts_in_spend_logs, or log through a callback")
    return messages


def _messages(value: Any) -> tuple[Message, ...]:
    """Chat messages of an OpenAI-style list, an object that holds one, or a plain prompt."""
    if isinstance(value, dict):
        value = value.get("messages", [value])
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise ValueError(f"the prompt is {type(value).__name__}, not messages")  # noqa: TRY004
    found = []
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError("a message is not an object with role and content")  # noqa: TRY004
        found.append({"role": message["role"], "content": _text(message.get("content"))})
    if not any(m["role"] == "user" and m["content"].strip() for m in found):
        raise ValueError("no user message with text")
    return tuple(found)


def _text(content: Any) -> str:
    if content is None:
        return ""  # an assistant's turn that called a tool
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type", "text") == "text"]
    if len(texts) != len(parts) or not all(isinstance(text, str) for text in texts):
        raise ValueError("a message holds something else than text")
    return "\n".join(str(text) for text in texts)


def _answer(value: Any, model: str) -> Answer:
    """The model's answer: a chat completion, a message, or its text."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict) and "choices" in value:
        try:
            return answer_from_completion(value)
        except (ValueError, AttributeError, TypeError, OverflowError) as error:
            raise ValueError(f"the answer is not a chat completion: {error}") from error
    if isinstance(value, dict) and "content" in value:
        value = _text(value["content"])
    if not isinstance(value, str):
        raise ValueError("no text in the answer")  # noqa: TRY004 - one error kind per row
    return Answer(value, model, None, None, None, "unknown")


def _decoded(value: Any) -> Any:
    """JSON columns come as values or as text, depending on who exported them."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        check_sound(found)
        return found
    return value


def _mapping(value: Any) -> dict[str, Any]:
    value = _decoded(value)
    return value if isinstance(value, dict) else {}


def _tags(value: Any) -> tuple[str, ...]:
    value = _decoded(value)
    return tuple(tag for tag in value if isinstance(tag, str)) if isinstance(value, list) else ()


def _names(*values: Any) -> tuple[str, ...]:
    texts = [value for value in values if isinstance(value, str) and value]
    if not texts:
        raise ValueError("no model name")
    return tuple(dict.fromkeys([*texts, *(text.rsplit("/", 1)[-1] for text in texts)]))


def _first_text(values: list[Any]) -> str | None:
    found = next((value for value in values if isinstance(value, str) and value.strip()), None)
    if found is not None and "\0" in found:
        raise ValueError("a name in it holds a NUL character")
    return found


def _time(value: Any, name: str) -> datetime:
    found = _time_or_none(value)
    if found is None or not 2000 <= found.year <= 2100:
        raise ValueError(f"{name} {value!r} is no time of this century")
    return found


def _time_or_none(value: Any) -> datetime | None:
    try:
        if isinstance(value, bool):
            return None
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        found = datetime.fromisoformat(value)
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _between(start: datetime, end: datetime | None) -> float | None:
    seconds = None if end is None else (end - start).total_seconds()
    return seconds if seconds is not None and seconds >= 0 else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _used(usage: dict[str, Any], kind: str, otherwise: str) -> int | None:
    """Langfuse counts kinds apart (input, input_cached_tokens, ...) and sums them by name itself; so does this."""
    counts = [_count(value) for key, value in usage.items() if kind in key and "cost" not in key and value is not None]
    if not counts:
        return _count(usage.get(otherwise))
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _amount(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
