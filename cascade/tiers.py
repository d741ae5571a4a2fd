"""What the cascade needs of a model: a cheap tier answers in batches, a flagship answers one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

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
