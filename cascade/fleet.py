"""A fleet of vLLM servers: their adapter endpoints, and a tier that spreads requests over them by a name that may move.

Beside cascade/client.py the only file that speaks HTTP to a model server. The endpoints are vLLM's:

    GET  /v1/models                 base model and loaded adapters, each with id, root (its path) and parent
    POST /v1/load_lora_adapter      {"lora_name", "lora_path"}: 200 and a line of text, or an error body
    POST /v1/unload_lora_adapter    {"lora_name"}
    POST /v1/completions            prompt as token ids, echo and logprobs: the log-probabilities of the prompt's tokens

(https://docs.vllm.ai/en/latest/features/lora/, served where VLLM_ALLOW_RUNTIME_LORA_UPDATING is set.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
from tqdm import tqdm

from cascade.client import OpenAITier
from cascade.errors import TierError
from cascade.request import OpenAITierConfig
from cascade.tiers import Failure
from cascade.trace import Answer, Query


@dataclass(frozen=True, slots=True)
class Served:
    """One line of a server's list of models."""

    name: str
    root: str | None
    parent: str | None
    """Base model of an adapter; None for the base model itself."""


class Replica:
    """One vLLM server; `url` goes up to and including /v1. Methods raise TierError with the server's own words."""

    def __init__(self, url: str, *, key: str | None = None, timeout_s: float = 60.0) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # A proxy of the environment must not stand between a cascade and its own servers.
        secure = self.url.startswith("https:")  # the certificates are read only where they are needed
        self._client = httpx.Client(timeout=timeout_s, headers=headers, trust_env=False, verify=secure)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def models(self) -> list[Served]:
        """What the server lists: its base model and every loaded adapter."""
        rows = self._call("GET", "models").get("data", [])
        return [Served(str(r["id"]), r.get("root"), r.get("parent")) for r in rows]

    def load(self, name: str, path: str) -> None:
        """Load an adapter from a path that the server can read, under a name of its own."""
        self._call("POST", "load_lora_adapter", {"lora_name": name, "lora_path": path})

    def unload(self, name: str) -> None:
        """Let an adapter go; requests that name it fail from then on."""
        self._call("POST", "unload_lora_adapter", {"lora_name": name})

    def logprobs(self, model: str, ids: Sequence[int]) -> list[float]:
        """Natural log-probability of each token of `ids` but the first, given those before it."""
        body = {"model": model, "prompt": list(ids), "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
        reply = self._call("POST", "completions", body)
        try:
            # The first token has none (null), and one generated token follows the prompt's.
            found = reply["choices"][0]["logprobs"]["token_logprobs"][1 : len(ids)]
            return [float(value) for value in found]
        except (KeyError, IndexError, TypeError) as error:
            raise TierError(f"{self.url}: no log-probabilities of the prompt in the reply for {model}") from error

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            reply = self._client.request(method, f"{self.url}/{path}", json=body)
        except httpx.HTTPError as error:
            raise TierError(f"{self.url}/{path}: {type(error).__name__}: {error}") from error
        if reply.status_code != httpx.codes.OK:
            raise TierError(f"{self.url}/{path}: status {reply.status_code}: {_message(reply)}")
        if not reply.headers.get("content-type", "").startswith("application/json"):
            return {}  # loading and unloading answer with a line of text
        try:
            return dict(reply.json())
        except ValueError as error:
            raise TierError(f"{self.url}/{path}: the reply is no JSON") from error


def _message(reply: httpx.Response) -> str:
    """vLLM's error message: {"error": {"message": ...}}, in older versions {"message": ...}."""
    try:
        body = reply.json()
        found = body.get("error", body)
        return " ".join(str(found["message"]).split())[:300]
    except (ValueError, KeyError, TypeError, AttributeError):
        return " ".join(reply.text.split())[:300]


class FleetTier:
    """The cheap tier behind several equal servers, under a model name that is asked for anew for every batch.

    `name` gives the adapter that serves now (the registry's champion, say). A request that meets a server that is
    down, or a name that has just been unloaded, is sent again, to another server and by the name of that moment.
    """

    def __init__(
        self, config: OpenAITierConfig, urls: Sequence[str], name: Callable[[], str], *, attempts: int = 4
    ) -> None:
        self.config, self._urls, self._name, self._attempts = config, tuple(urls), name, attempts
        self._turn = 0
        # Retries are ours: another server is a better second choice than the same one again.
        self._tiers = {
            url: OpenAITier(config.model_copy(update={"base_url": url, "name": config.price_name, "max_retries": 0}))
            for url in self._urls
        }

    def close(self) -> None:
        """Close the connections to every server."""
        for tier in self._tiers.values():
            tier.close()

    def sampler(self) -> OpenAITier:
        """One server under the name of this moment: for samples, which bear a failure."""
        return self._tiers[self._urls[0]].renamed(self._name())

    def answer(self, queries: Sequence[Query], *, progress: bool = True) -> list[Answer]:
        """Answers in the order of `queries`. Raises TierError when a query failed on every attempt."""
        answers: dict[int, Answer] = {}
        waiting, reason = list(range(len(queries))), ""
        with tqdm(
            total=len(queries), desc=f"answer {self.config.price_name}", unit="query", disable=not progress
        ) as bar:
            for _ in range(self._attempts):
                outcomes = self._ask(waiting, queries, self._name())
                got = {i: o for i, o in outcomes.items() if isinstance(o, Answer)}
                answers.update(got)
                bar.update(len(got))
                failed = [o.reason for o in outcomes.values() if isinstance(o, Failure)]
                waiting = [i for i in waiting if i not in answers]
                if not waiting:
                    return [answers[i] for i in range(len(queries))]
                reason = failed[0]
        raise TierError(
            f"{len(waiting)} of {len(queries)} requests to the fleet failed {self._attempts} times: {reason}"
        )

    def _ask(self, places: Sequence[int], queries: Sequence[Query], name: str) -> dict[int, Answer | Failure]:
        """One attempt: the queries spread over the servers in turn, another beginning each time."""
        self._turn += 1
        shares: dict[str, list[int]] = {}
        for k, place in enumerate(places):
            shares.setdefault(self._urls[(k + self._turn) % len(self._urls)], []).append(place)
        with ThreadPoolExecutor(len(shares)) as pool:
            parts = pool.map(lambda share: self._ask_one(share[0], name, share[1], queries), shares.items())
        return {place: outcome for part in parts for place, outcome in part.items()}

    def _ask_one(
        self, url: str, name: str, places: Sequence[int], queries: Sequence[Query]
    ) -> dict[int, Answer | Failure]:
        left: dict[int, list[int]] = {}
        for place in places:
            left.setdefault(id(queries[place]), []).append(place)
        found: dict[int, Answer | Failure] = {}
        for query, outcome in self._tiers[url].renamed(name).iter_outcomes([queries[place] for place in places]):
            found[left[id(query)].pop()] = outcome
        return found
