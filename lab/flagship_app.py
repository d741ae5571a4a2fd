"""The OpenAI-compatible HTTP surface of the loopback flagship."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from lab.flagship_book import AnswerBook, BookAnswer, FlagshipOptions, Ledger, Sale, count_tokens, split_tokens
from lab.flagship_judge import judge_reply


class RefusedError(Exception):
    """A request that ends in an HTTP error."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


class RateLimit:
    """Token bucket with a burst of one second's worth of requests."""

    def __init__(self, per_second: float | None) -> None:
        self._rate = per_second
        self._tokens = max(1.0, per_second or 1.0)
        self._seen = time.monotonic()

    def wait_s(self) -> float:
        """0.0 when a request may pass (and is counted), else the seconds until one may."""
        if self._rate is None:
            return 0.0
        now = time.monotonic()
        self._tokens = min(max(1.0, self._rate), self._tokens + (now - self._seen) * self._rate)
        self._seen = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate


def create_app(book: AnswerBook, options: FlagshipOptions, ledger: Ledger) -> FastAPI:
    """The application; all its state is in `ledger`, the limiter and the failure dice."""
    app = FastAPI(title="loopback flagship", openapi_url=None)
    limiter, dice = RateLimit(options.rate_limit), random.Random(options.seed)

    @app.exception_handler(RefusedError)
    async def refuse(_: Request, refusal: RefusedError) -> JSONResponse:
        ledger.refuse(refusal.status)
        error = {"message": refusal.message, "type": "error", "code": refusal.status}
        return JSONResponse({"error": error}, refusal.status, refusal.headers)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/stats")
    async def stats() -> dict[str, Any]:
        return ledger.stats()

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        _authorise(request, options)
        return {"object": "list", "data": [{"id": name, "object": "model"} for name in options.models]}

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> JSONResponse:
        ledger.counts.requests += 1
        _authorise(request, options)
        wait = limiter.wait_s()
        if wait > 0:
            headers = {"Retry-After": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
            raise RefusedError(429, "rate limit reached", headers)
        raw = await request.body()
        body = _parse(raw, options)
        if dice.random() < options.failure_rate:
            raise RefusedError(dice.choice((500, 503)), "the flagship failed on purpose")
        sale = _sell(body, raw, request.headers.get("idempotency-key"), book, ledger, options)
        # Billed before the wait: a second request with the same key meets the stored sale, however slow the first is.
        await asyncio.sleep(options.latency_s)
        return JSONResponse(_completion(sale, body))

    return app


def _authorise(request: Request, options: FlagshipOptions) -> None:
    if options.api_key is not None and request.headers.get("authorization") != f"Bearer {options.api_key}":
        raise RefusedError(401, "wrong or missing API key")


def _parse(raw: bytes, options: FlagshipOptions) -> dict[str, Any]:
    try:
        body = json.loads(raw)
        messages = body["messages"]
        known = isinstance(messages, list) and any(message["role"] == "user" for message in messages)
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedError(400, "the body is not a chat completion request") from error
    if not known:
        raise RefusedError(400, "messages hold no user message")
    if body.get("stream") or body.get("n", 1) != 1:
        raise RefusedError(400, "streaming and n > 1 are not offered")
    if body.get("model") not in options.models:
        raise RefusedError(404, f"model {body.get('model')!r} does not exist")
    return dict(body)


def _sell(
    body: dict[str, Any], raw: bytes, key: str | None, book: AnswerBook, ledger: Ledger, options: FlagshipOptions
) -> Sale:
    """The stored sale of a repeated key, or a new billed one."""
    digest = hashlib.sha256(raw).hexdigest()
    known = ledger.find(key)
    if known is not None:
        if known.request_digest != digest:
            raise RefusedError(409, "the idempotency key was used with another request")
        ledger.counts.replayed_answers += 1
        return known
    content = _last_user_text(body["messages"])
    verdict = judge_reply(body, content, book, options)
    answer = book.answer(content) if verdict is None else BookAnswer(verdict, injected_error=False)
    prompt_tokens = sum(count_tokens(_text(message.get("content", ""))) + 4 for message in body["messages"])
    sale = Sale(
        model=body["model"],
        content=content,
        answer=answer.text,
        prompt_tokens=prompt_tokens,
        completion_tokens=count_tokens(answer.text),
        injected_error=answer.injected_error,
        idempotency_key=key,
        request_digest=digest,
    )
    ledger.bill(sale)
    return sale


def _text(content: Any) -> str:
    """Text of a message whose content is a string or a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return str(content)


def _last_user_text(messages: list[dict[str, Any]]) -> str:
    return next(_text(message["content"]) for message in reversed(messages) if message["role"] == "user")


def _completion(sale: Sale, body: dict[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": sale.answer},
        "finish_reason": "stop",
        "logprobs": None,
    }
    if body.get("logprobs"):
        choice["logprobs"] = {"content": _logprobs(sale.answer, int(body.get("top_logprobs") or 0))}
    return {
        "id": f"chatcmpl-{sale.request_digest[:24]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": sale.model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": sale.prompt_tokens,
            "completion_tokens": sale.completion_tokens,
            "total_tokens": sale.prompt_tokens + sale.completion_tokens,
        },
    }


def _logprobs(text: str, top: int) -> list[dict[str, Any]]:
    """A confident model's log-probabilities: 0.99 on each token, the rest spread over made-up alternatives."""
    entries = []
    for token in split_tokens(text):
        best = {"token": token, "logprob": math.log(0.99), "bytes": list(token.encode())}
        others = [
            {"token": f"{token}~{rank}", "logprob": math.log(0.01 / 2**rank), "bytes": None} for rank in range(1, top)
        ]
        entries.append({**best, "top_logprobs": [best, *others][:top]})
    return entries
