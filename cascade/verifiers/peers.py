"""Do other cheap models come to the same answer? A committee: every peer answers every query, and is paid for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade.cost import PriceTable
from cascade.errors import ConfigError
from cascade.final_answer import final_answer
from cascade.tiers import Tier
from cascade.trace import Answer, Query
from cascade.verifiers.accounts import add_known
from cascade.verifiers.score import Score


@dataclass(frozen=True, slots=True)
class PeerScorer:
    """Scores the share (0..1) of the peers whose final answer is the cheap model's; no opinion without one."""

    peers: Mapping[str, Tier] = field(repr=False)
    """By model name; one at least."""
    prices: PriceTable = field(repr=False)

    def __post_init__(self) -> None:
        if not self.peers:
            raise ConfigError("a committee has no peers; name one other cheap model at least")

    @property
    def name(self) -> str:
        return f"peers: {', '.join(self.peers)}"

    def score(self, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Score]:
        """One opinion per answer, with what its peers' answers cost. Raises TierError when a peer does not answer."""
        by_peer = [tier.answer(queries, progress=False) for tier in self.peers.values()]
        return [self._score(answer, list(theirs)) for answer, *theirs in zip(answers, *by_peer, strict=True)]

    def _score(self, answer: Answer, theirs: Sequence[Answer]) -> Score:
        cost = add_known(self.prices.cost_usd(other) for other in theirs)
        latency = add_known(other.latency_s for other in theirs)
        own = final_answer(answer.text)
        if own is None:
            return Score(None, "no final answer to compare", cost, latency)
        n_same = sum(final_answer(other.text) == own for other in theirs)
        reason = None if n_same else "no peer comes to this answer"
        return Score(n_same / len(theirs), reason, cost, latency)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; its loader has to bring the peers' tiers."""
        return {"kind": "peers", "models": list(self.peers)}


NO_FINAL_ANSWER = -1.0
"""Stands for the peers' agreement where the answer comes to nothing that could agree."""


def agreement(opinions: Sequence[Score] | None) -> NDArray[np.float64] | None:
    """(n,) share (0..1) of the peers that agree, as a feature; None where no peers were asked."""
    if opinions is None:
        return None
    return np.array([NO_FINAL_ANSWER if opinion.value is None else opinion.value for opinion in opinions])
