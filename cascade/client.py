"""A tier behind an OpenAI-compatible endpoint: speaks HTTP to a model (beside the fleet: cascade/fleet.py)."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from tqdm import tqdm

from cascade.errors import ConfigError, TierError
from cascade.replies import logprobs_problem, to_answer
from cascade.request import OpenAITierConfig, params_digest, request_params, sample_params
from cascade.tiers import Failure, SamplingConfig
from cascade.trace import Answer, Query

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletion

Job = TypeVar("Job")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

HOPELESS_STATUS = (401, 403, 404)
"""Key, permission or model name is wrong: every later request would fail the same way."""


class OpenAITier:
    """A model behind an OpenAI-compatible endpoint; requests run on `config.concurrency` threads.

    Raises ConfigError when the key's environment variable is not set. Use as a context manager or call
    `close`.
    """

    def __init__(self, config: OpenAITierConfig) -> None:
        self.config = config
        self._key = _api_key(config)
        self._client: OpenAI | None = None
        self._knows_logprobs = not config.logprobs

    @property
    def price_name(self) -> str:
        """Name that answers carry and that the price table must list."""
        return self.config.price_name

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
        back as failures. Where log-probabilities were asked for and the first answer has none, it is logged once.
        """
        for query, outcome in self._stream(queries, self._ask):
            if isinstance(outcome, Answer):
                self._check_logprobs(outcome)
            yield query, outcome

    def sample(
        self, queries: Sequence[Query], k: int, sampling: SamplingConfig, *, progress: bool = True
    ) -> list[list[Answer | Failure]]:
        """`k` samples of each query, in order; a failed request stops no other and stands in its place as Failure.

        With `samples_per_request: all` the usage of the one request is on its first sample and the others carry 0
        tokens, so that sums are right; their latency is the request's.
        """
        outcomes: list[list[Answer | Failure]] = [[] for _ in queries]
        arriving = self._iter_samples(queries, k, sampling)
        bar = tqdm(total=len(queries) * k, desc=f"sample {self.config.model}", unit="sample", disable=not progress)
        with bar:
            by_place = {}
            for place, got in arriving:
                by_place[place] = got
                bar.update(len(got))
        for place in sorted(by_place):
            outcomes[place[0]] += by_place[place]
        return outcomes

    def _iter_samples(
        self, queries: Sequence[Query], k: int, sampling: SamplingConfig
    ) -> Iterator[tuple[tuple[int, int], list[Answer | Failure]]]:
        """((place of the query, number of its first sample), outcomes), in any order."""
        n = max(1, k) if self.config.samples_per_request == "all" else 1

        def ask(place: tuple[int, int]) -> list[Answer] | Failure:
            number, index = place
            params = sample_params(queries[number], self.config, sampling, index, n)
            # Without a seed the k bodies are equal, and an endpoint that honours the key would send one answer k times.
            return self._request(
                params, f"{params_digest(params)}-{index}", lambda reply, spent: self._samples(reply, spent, n)
            )

        places = ((number, index) for number in range(len(queries)) for index in range(0, k, n))
        for place, outcome in self._stream(places, ask):
            yield place, [outcome] * n if isinstance(outcome, Failure) else list(outcome)

    def _samples(self, reply: ChatCompletion, latency_s: float, n: int) -> list[Answer]:
        choices = getattr(reply, "choices", None) or []
        if len(choices) != n:
            raise ValueError(f"{len(choices)} choices in it, {n} asked for")
        first, *others = [to_answer(reply, self.price_name, latency_s, index) for index in range(n)]
        return [first, *(replace(other, tokens_in=0, tokens_out=0) for other in others)]

    def _stream(
        self, jobs: Iterable[Job], ask: Callable[[Job], Result | Failure]
    ) -> Iterator[tuple[Job, Result | Failure]]:
        """Run `ask` on each job on `concurrency` threads, reading jobs only as fast as they can be sent."""
        config = self.config
        source, nothing = iter(jobs), object()
        in_a_row, stop_reason = 0, None
        self._connect()  # here, before there are threads that would each make their own
        with ThreadPoolExecutor(config.concurrency, thread_name_prefix="flagship") as pool:
            running: dict[Future[Result | Failure], Job] = {}
            try:
                while True:
                    while stop_reason is None and len(running) < config.concurrency:
                        job: Any = next(source, nothing)
                        if job is nothing:
                            break
                        running[pool.submit(ask, job)] = job
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
                    yield from ((job, Failure(stop_reason, maybe_billed=False)) for job in source)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _stop_reason(self, failure: Failure, in_a_row: int) -> str | None:
        if failure.reason.startswith(tuple(f"status {status}" for status in HOPELESS_STATUS)):
            return f"not sent: {failure.reason}"
        limit = 4 * self.config.concurrency
        return f"not sent after {in_a_row} failures in a row: {failure.reason}" if in_a_row >= limit else None

    def _check_logprobs(self, answer: Answer) -> None:
        if self._knows_logprobs or not answer.text.strip():
            return
        self._knows_logprobs = True
        problem = logprobs_problem(answer, self.config.model, self.config.base_url)
        if problem is not None:
            log.warning("%s", problem)

    def _ask(self, query: Query) -> Answer | Failure:
        params = request_params(query, self.config)
        return self._request(
            params, params_digest(params), lambda reply, spent: to_answer(reply, self.price_name, spent)
        )

    def _request(
        self, params: dict[str, Any], key: str, read: Callable[[ChatCompletion, float], Result]
    ) -> Result | Failure:
        """Send one request with its idempotency key; `read(reply, seconds)` raises ValueError for a malformed reply."""
        import openai

        started = time.perf_counter()
        try:
            reply = self._connect().chat.completions.create(**params, extra_headers={"Idempotency-Key": key})
            return read(reply, time.perf_counter() - started)
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


def probe_logprobs(config: OpenAITierConfig) -> None:
    """Ask for one short answer with log-probabilities. Raises TierError when none come or the endpoint fails."""
    query = Query("probe", datetime.now(UTC), "probe", ({"role": "user", "content": "hello"},))
    with OpenAITier(config.model_copy(update={"logprobs": True, "max_tokens": 8})) as tier:
        outcome = tier._ask(query)
    if isinstance(outcome, Failure):
        raise TierError(f"{config.model} at {config.base_url} did not answer: {outcome.reason}")
    problem = logprobs_problem(outcome, config.model, config.base_url)
    if problem is not None:
        raise TierError(problem)


def answer_from_completion(row: dict[str, Any]) -> Answer:
    """An Answer of a logged chat completion (the endpoint's JSON); latency unknown. Raises ValueError."""
    from openai.types.chat import ChatCompletion

    return to_answer(ChatCompletion.construct(**row), str(row.get("model") or "unknown"), None)


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
