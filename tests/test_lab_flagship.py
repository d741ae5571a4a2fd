"""The loopback flagship over real HTTP, as a process of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lab.flagship import FlagshipError, serve_flagship
from lab.flagship_book import FlagshipOptions

MODEL = "flagship-large"
HTTP = httpx.Client(trust_env=False, timeout=30)


def ask(url: str, content: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}
    return HTTP.post(f"{url}/chat/completions", json=body, headers=headers)


@pytest.fixture(scope="module", autouse=True)
def close_connections() -> Iterator[None]:
    yield
    HTTP.close()


def stats(url: str) -> dict[str, Any]:
    answer: dict[str, Any] = HTTP.get(url.removesuffix("/v1") + "/stats").json()
    return answer


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flagship") / "answers.jsonl"
    rows = [{"content": f"question {n}", "answer": f'{{"intent":"i{n}"}}'} for n in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def plain(answers: Path) -> Iterator[str]:
    with serve_flagship(answers) as url:
        yield url


def test_an_answer_comes_with_usage_and_log_probabilities(plain: str) -> None:
    body = ask(plain, "question 7", logprobs=True, top_logprobs=2).json()
    choice = body["choices"][0]
    assert choice["message"]["content"] == '{"intent":"i7"}'
    assert body["usage"]["prompt_tokens"] == 6
    assert body["usage"]["completion_tokens"] == 9
    tokens = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == '{"intent":"i7"}'
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)
    assert ask(plain, "question 7").json()["choices"][0]["logprobs"] is None


def test_an_unknown_question_gets_the_fallback_and_a_bad_request_a_status(plain: str) -> None:
    assert ask(plain, "never seen").json()["choices"][0]["message"]["content"] == '{"intent":"unknown"}'
    assert ask(plain, "question 7", model="other").status_code == 404
    assert ask(plain, "question 7", stream=True).status_code == 400
    assert HTTP.post(f"{plain}/chat/completions", content=b"{").status_code == 400
    assert HTTP.get(f"{plain}/models").json()["data"][0]["id"] == MODEL


def test_several_hundred_answers_a_second_are_served(plain: str) -> None:
    async def burst() -> list[int]:
        async with httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=32)) as client:
            bodies = [{"model": MODEL, "messages": [{"role": "user", "content": f"question {n}"}]} for n in range(200)]
            sent = [client.post(f"{plain}/chat/completions", json=body, timeout=30) for body in bodies]
            return [answer.status_code for answer in await asyncio.gather(*sent)]

    assert asyncio.run(burst()) == [200] * 200


def test_a_repeated_key_is_not_billed_again_even_after_a_restart(answers: Path, tmp_path: Path) -> None:
    ledger, key = tmp_path / "ledger.jsonl", {"Idempotency-Key": "k-1"}
    with serve_flagship(answers, ledger=ledger) as url:
        first = ask(url, "question 1", key).json()["choices"]
        assert ask(url, "question 1", key).json()["choices"] == first
        assert ask(url, "question 2", key).status_code == 409
        counted = stats(url)
        assert (counted["requests"], counted["billed_answers"], counted["distinct_questions"]) == (3, 1, 1)
    with ledger.open("a") as file:
        file.write('{"time": "cut off by a ki')
    with serve_flagship(answers, ledger=ledger) as url:
        assert ask(url, "question 1", key).json()["choices"] == first
        assert stats(url)["billed_answers"] == 0
        ask(url, "question 3")
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [row["content"] for row in rows] == ["question 1", "question 3"]


def test_injected_errors_are_stable_and_counted(answers: Path) -> None:
    with serve_flagship(answers, FlagshipOptions(error_rate=0.3, seed=5)) as url:
        given = [
            [ask(url, f"question {n}").json()["choices"][0]["message"]["content"] for n in range(30)] for _ in "ab"
        ]
        wrong = sum(text != f'{{"intent":"i{n}"}}' for n, text in enumerate(given[0]))
        assert given[0] == given[1]
        assert 2 <= wrong <= 18
        assert stats(url)["injected_errors"] == 2 * wrong


def test_limits_failures_and_keys_answer_with_their_status(answers: Path) -> None:
    options = FlagshipOptions(rate_limit=2, failure_rate=1.0, api_key="secret")
    with serve_flagship(answers, options) as url:
        assert ask(url, "question 1").status_code == 401
        key = {"Authorization": "Bearer secret"}
        replies = [ask(url, "question 1", key) for _ in range(6)]
        assert replies[0].status_code in {500, 503}
        limited = [reply for reply in replies if reply.status_code == 429]
        assert limited
        assert int(limited[0].headers["Retry-After"]) >= 1
        assert stats(url)["billed_answers"] == 0


def test_a_server_that_cannot_start_says_why_in_one_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "answers.jsonl"
    broken.write_text('{"content": "no answer"}\n')
    with pytest.raises(FlagshipError, match="line 1: not a row with content and answer"), serve_flagship(broken):
        pass
