"""A tier behind an OpenAI-compatible endpoint: speaks HTTP to a model (beside the fleet: cascade/fleet.py)."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from copy import copy
from ipaddress import ip_address
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from cascade.confidence import summarise_tokens
from cascade.errors import ConfigError, TierError
from cascade.tiers import Failure
from cascade.trace import Answer, Query, TokenConfidence

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletion

HOPELESS_STATUS = (401, 403, 404)
"""Key, permission or model name is wrong: every later request would fail the same way."""


class OpenAITierConfig(BaseModel):
    """An endpoint and how to ask it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1)
    """Model name as the endpoint knows it."""
    name: str | None = None
    """Name that answers carry, as in the price table; None means `model`."""
    base_url: str
    """Up to and including /v1."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key, None for an endpoint without. A loopback URL needs none."""
    max_tokens: int = Field(default=256, gt=0)
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: float | None = 0.0
    """None leaves it out, for models that refuse the parameter."""
    timeout_s: float = Field(default=60.0, gt=0)
    max_retries: int = Field(default=4, ge=0)
    """Retries of one request after a timeout, rate limit or server error, with growing pauses."""
    concurrency: int = Field(default=8, gt=0)
    logprobs: bool = False
    """Ask for log-probabilities of the two likeliest tokens."""
    send_schema: bool = False
    """Send a query's JSON schema as response_format; only for endpoints that know it."""

    @property
    def price_name(self) -> str:
        """Name that answers carry and that the price table must list."""
        return self.name or self.model


def request_params(query: Query, config: OpenAITierConfig) -> dict[str, Any]:
    """Body of the chat completion request for `query`."""
    params: dict[str, Any] = {
        "model": config.model,
        "messages": [dict(message) for message in query.messages],
        config.token_limit_field: config.max_tokens,
    }
    if config.temperature is not None:
        params["temperature"] = config.temperature
    if config.logprobs:
        params |= {"logprobs": True, "top_logprobs": 2}
    if config.send_schema and query.schema is not None:
        schema = {"name": "answer", "schema": query.schema, "strict": True}
        params["response_format"] = {"type": "json_schema", "json_schema": schema}
    return params


def request_digest(query: Query, config: OpenAITierConfig) -> str:
    """SHA-256 (hex) of model, messages and parameters: equal for questions that need asking only once."""
    body = json.dumps(request_params(query, config), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(body.encode()).hexdigest()


class OpenAITier:
    """A model behind an OpenAI-compatible endpoint; requests run on `config.concurrency` threads.

    Raises ConfigError when the key's environment variable is not set. Use as a context manager or call
    `close`.
    """

    def __init__(self, config: OpenAITierConfig) -> None:
        self.config = config
        self._key = _api_key(config)
        self._client: OpenAI | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def renamed(self, model: str) -> OpenAITier:
        """The same endpoint over the same connections, asked for another model. Lives no longer than this one."""
        self._connect()
        other = copy(self)
        other.config = self.config.model_copy(update={"model": model, "name": self.config.price_name})
        return other

    def answer(self, queries: Sequence[Query], *, progress: bool = True) -> list[Answer]:
        """Answers in the order of `queries`. Raises TierError when any request failed after its retries."""
        answers: dict[int, Answer] = {}
        # Queries may repeat, so positions are the keys.
        places: dict[int, list[int]] = {}
        for place, query in enumerate(queries):
            places.setdefault(id(query), []).append(place)
        arriving = tqdm(
            self.iter_answers(queries), f"answer {self.config.model}", len(queries), unit="query", disable=not progress
        )
        for query, answer in arriving:
            answers[places[id(query)].pop(0)] = answer
        return [answers[place] for place in range(len(queries))]

    def iter_answers(self, queries: Iterable[Query]) -> Iterator[tuple[Query, Answer]]:
        """Answers as they arrive, in any order.

        A request that fails stops no other; when all others are through, TierError says how many failed and
        why.
        """
        failures: list[Failure] = []
        n = 0
        for query, outcome in self.iter_outcomes(queries):
            n += 1
            if isinstance(outcome, Failure):
                failures.append(outcome)
            else:
                yield query, outcome
        if failures:
            raise TierError(f"{len(failures)} of {n} requests to {self.config.model} failed: {failures[0].reason}")

    def iter_outcomes(self, queries: Iterable[Query]) -> Iterator[tuple[Query, Answer | Failure]]:
        """Answers and failures as they arrive, in any order.

        `queries` is read only as fast as requests can be sent. Nothing more is sent once the endpoint is
        plainly unusable (wrong key or model, or `4 x concurrency` failures in a row): what is left comes
        back as failures.
        """
        config = self.config
        source = iter(queries)
        in_a_row, stop_reason = 0, None
        self._connect()  # here, before there are threads that would each make their own
        with ThreadPoolExecutor(config.concurrency, thread_name_prefix="flagship") as pool:
            running: dict[Future[Answer | Failure], Query] = {}
            try:
                while True:
                    while stop_reason is None and len(running) < config.concurrency:
                        query = next(source, None)
                        if query is None:
                            break
                        running[pool.submit(self._ask, query)] = query
                    if not running:
                        break
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        outcome = future.result()
                        failed = isinstance(outcome, Failure)
                        in_a_row = in_a_row + 1 if failed else 0
                        if isinstance(outcome, Failure):
                            stop_reason = stop_reason or self._stop_reason(outcome, in_a_row)
                        yield running.pop(future), outcome
                if stop_reason is not None:
                    yield from ((query, Failure(stop_reason, maybe_billed=False)) for query in source)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _stop_reason(self, failure: Failure, in_a_row: int) -> str | None:
        if failure.reason.startswith(tuple(f"status {status}" for status in HOPELESS_STATUS)):
            return f"not sent: {failure.reason}"
        limit = 4 * self.config.concurrency
        return f"not sent after {in_a_row} failures in a row: {failure.reason}" if in_a_row >= limit else None

    def _ask(self, query: Query) -> Answer | Failure:
        import openai

        headers = {"Idempotency-Key": request_digest(query, self.config)}
        started = time.perf_counter()
        try:
            reply = self._connect().chat.completions.create(**request_params(query, self.config), extra_headers=headers)
            return _to_answer(reply, self.config.price_name, time.perf_counter() - started)
        except openai.APITimeoutError:
            return Failure(
                f"no reply within {self.config.timeout_s:g} s from {self.config.base_url}", maybe_billed=True
            )
        except openai.APIStatusError as error:
            return Failure(f"status {error.status_code}: {_one_line(error.message)}", maybe_billed=False)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            # A connection that breaks while reading may have lost a finished answer; a refused one has not.
            refused = "Connect" in type(cause).__name__
            reason = f"cannot reach {self.config.base_url}: {_one_line(str(cause))}"
            return Failure(reason, maybe_billed=not refused)
        except (openai.OpenAIError, ValueError) as error:
            return Failure(f"malformed reply: {_one_line(str(error))}", maybe_billed=True)

    def _connect(self) -> OpenAI:
        if self._client is None:
            self._client = _new_client(self.config, self._key, self.config.timeout_s, self.config.max_retries)
            # A tier that nobody closes must not leave sockets behind.
            weakref.finalize(self, self._client.close)
        return self._client


def _new_client(config: OpenAITierConfig, key: str, timeout_s: float, max_retries: int) -> OpenAI:
    import openai

    # A proxy of the environment must not catch what is meant for this machine.
    direct = openai.DefaultHttpxClient(trust_env=False, timeout=timeout_s) if _is_loopback(config.base_url) else None
    return openai.OpenAI(
        base_url=config.base_url, api_key=key, timeout=timeout_s, max_retries=max_retries, http_client=direct
    )


def list_models(config: OpenAITierConfig) -> list[str]:
    """Names that the endpoint lists under /models. Raises TierError when it cannot be asked."""
    import openai

    client = _new_client(config, _api_key(config), timeout_s=10.0, max_retries=0)
    try:
        return [model.id for model in client.models.list()]
    except openai.OpenAIError as error:
        raise TierError(f"cannot list the models of {config.base_url}: {_one_line(str(error))}") from error
    finally:
        client.close()


def answer_from_completion(row: dict[str, Any]) -> Answer:
    """An Answer of a logged chat completion (the endpoint's JSON); latency unknown. Raises ValueError."""
    from openai.types.chat import ChatCompletion

    return _to_answer(ChatCompletion.construct(**row), str(row.get("model") or "unknown"), None)


def _to_answer(reply: ChatCompletion, model: str, latency_s: float | None) -> Answer:
    """An Answer of a reply; raises ValueError where it holds none (the SDK does not check what is sent)."""
    choices = getattr(reply, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise ValueError("no choices in it")
    choice = choices[0]
    text = choice.message.content
    if text is None:
        text = getattr(choice.message, "refusal", None)
    if not isinstance(text, str):
        raise ValueError("no text in it")  # noqa: TRY004 - one error kind for all malformed replies
    usage = getattr(reply, "usage", None)
    return Answer(
        text=text,
        model=model,
        tokens_in=_count(usage, "prompt_tokens"),
        tokens_out=_count(usage, "completion_tokens"),
        latency_s=latency_s,
        finish_reason=choice.finish_reason or "unknown",
        confidence=_token_confidence(choice),
    )


def _token_confidence(choice: Any) -> TokenConfidence | None:
    tokens = getattr(getattr(choice, "logprobs", None), "content", None)
    if not tokens:
        return None
    tops = [sorted((entry.logprob for entry in token.top_logprobs or []), reverse=True)[:2] for token in tokens]
    complete = all(len(top) == 2 for top in tops)
    margins = [math.exp(first) - math.exp(second) for first, second in tops] if complete else None
    return summarise_tokens([token.logprob for token in tokens], margins)


def _count(usage: Any, name: str) -> int | None:
    value = getattr(usage, name, None)
    return value if isinstance(value, int) and value >= 0 else None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _api_key(config: OpenAITierConfig) -> str:
    key = os.environ.get(config.api_key_env, "") if config.api_key_env else ""
    if not key and config.api_key_env and not _is_loopback(config.base_url):
        raise ConfigError(
            f"environment variable {config.api_key_env} is not set, and {config.base_url} needs a key; "
            "export it, or set api_key_env to null for an endpoint without one"
        )
    # The SDK refuses an empty key even where the endpoint wants none. A loopback server gets no real key.
    return key or "none"


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
