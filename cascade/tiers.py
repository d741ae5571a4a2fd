"""What the cascade needs of a model: a cheap tier answers in batches, a flagship answers one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from cascade.trace import Answer, Query


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that got no usable answer, after all retries."""

    reason: str
    maybe_billed: bool
    """True when the endpoint may have generated (and charged) an answer that never arrived."""


class Tier(Protocol):
    """A model that answers a batch of queries, in order. Raises TierError when it cannot."""

    def answer(self, queries: Sequence[Query], *, progress: bool = True) -> list[Answer]: ...


class Flagship(Protocol):
    """A model behind a paid endpoint: outcomes come as they arrive, a failed request stops no other."""

    def iter_outcomes(self, queries: Iterable[Query]) -> Iterator[tuple[Query, Answer | Failure]]: ...


class SamplingConfig(BaseModel):
    """How several answers to one query are drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(default=0.7, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw among the likeliest tokens that together have this probability."""
    seed: int | None = 0
    """Same seed, same query, same samples, whatever the batch (an endpoint does its best). None lets an endpoint draw
    freely and sends it no seed; a local model then takes 0."""


class SamplingTier(Protocol):
    """A model of which several answers to one query can be drawn."""

    @property
    def price_name(self) -> str:
        """Name that answers carry, as in the price table."""

    def sample(
        self, queries: Sequence[Query], k: int, sampling: SamplingConfig, *, progress: bool = True
    ) -> Sequence[Sequence[Answer | Failure]]:
        """`k` outcomes for each query, in order. The usage of all outcomes of a query adds up to what it cost."""


def sample_seed(query: Query, index: int, seed: int) -> int:
    """Seed (31 bits) of a query's sample number `index`; equal messages draw equal samples."""
    messages = json.dumps([dict(message) for message in query.messages], sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(f"{seed}:{index}:{messages}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
