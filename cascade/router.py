"""Before anybody answers: which queries are so surely beyond the cheap tier that its attempt is money thrown away.

A small classifier over the query alone (its embedding, and how the flagship's answers in its neighbourhood scatter)
says how likely the cheap answer would be accepted. Trying costs small + verifier and saves the flagship with that
probability p, so it pays where p > (small + verifier) / large. The router is fitted on the calibration's learning part
and stands in place when the threshold is tested, as it does when it serves: the promise over accepted answers is made
for what is left to try. A small share of the routed queries is tried all the same, or a better
student would never show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cascade.cost import sequential_cost
from cascade.errors import InputError
from cascade.trace import Query
from cascade.verifiers.bank import AnswerBank, Embed
from cascade.verifiers.choice import choose_model, fit_choice, text_folds
from cascade.verifiers.features import fit_features
from cascade.verifiers.learned import LearnedScorer
from cascade.verifiers.score import TooLittleData

if TYPE_CHECKING:
    from cascade.verifiers.score import ScorerLoader

PSEUDO_ACCEPTED = 1.0
"""Accepted answers added to those that routing would have lost: a few queries without one prove nothing."""


class RouterConfig(BaseModel):
    """How the router learns."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    explore: float = Field(default=0.05, ge=0, le=1)
    """Share of the routed queries that is tried all the same."""
    neighbours: int = Field(default=10, ge=1)
    dimensions: int = Field(default=16, ge=1)
    folds: int = Field(default=5, ge=2)
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Router:
    """A fitted router."""

    model: LearnedScorer
    """P(the cheap answer would be accepted), of the query alone."""
    route_below: float
    explore: float
    seed: int
    why: str

    def routed(self, queries: Sequence[Query]) -> list[float | None]:
        """For each query that is to go straight to the flagship, the P(accepted) that says so; None for the others."""
        chances = self.model.predict(queries, None)
        return [
            chance if chance < self.route_below and not self.explores(query.id) else None
            for query, chance in zip(queries, chances.tolist(), strict=True)
        ]

    def explores(self, query_id: str) -> bool:
        """Whether this query is tried even where it would be routed; depends on the seed and its id alone."""
        digest = hashlib.sha256(f"router:{self.seed}:{query_id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.explore * 2**64

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "model": self.model.to_dict(),
            "route_below": self.route_below,
            "explore": self.explore,
            "seed": self.seed,
            "why": self.why,
        }

    @classmethod
    def from_dict(cls, row: dict[str, Any], load: ScorerLoader) -> Router:
        """Inverse of `to_dict`. Raises InputError where its model is of another kind."""
        model = load(row["model"])
        if not isinstance(model, LearnedScorer):
            raise InputError(f"the router's model is of kind {row['model'].get('kind')!r}: fit the verifier again")
        return cls(**(row | {"model": model}))


@dataclass(frozen=True)
class RouterTrainer:
    """Becomes a `Router`."""

    config: RouterConfig
    embed: Embed
    bank: AnswerBank | None
    cheap_usd: float | None
    """Mean cost of a cheap answer; None when unknown."""
    flagship_usd: float | None

    def fit(
        self,
        queries: Sequence[Query],
        references: Sequence[str],
        accepted: NDArray[np.bool_],
        verifier_usd: float | None,
    ) -> Router:
        """A router from queries whose cheap answers were judged. `accepted`: (n,) bool; `verifier_usd`: mean per query.

        Raises TooLittleData where nothing can be learnt, where a price is unknown, or where routing would not pay.
        """
        if self.cheap_usd is None or self.flagship_usd is None or verifier_usd is None:
            raise TooLittleData("a cost is unknown, so what an attempt is worth is too")
        config = self.config
        own = AnswerBank.build(queries, references, self.embed)
        features = fit_features(
            queries,
            None,
            ("query", "neighbourhood"),
            embed=self.embed,
            bank=own if self.bank is None else own.merge(self.bank),
            neighbours=config.neighbours,
            dimensions=config.dimensions,
            form="json",
        )
        rows = features.rows(queries, None, self.embed)
        choice = choose_model(
            rows, accepted, text_folds(queries, config.folds, config.seed), features.names, config.seed
        )
        route_below, n_routed, saved_usd = best_bound(
            choice.predicted, accepted, self.cheap_usd, verifier_usd, self.flagship_usd
        )
        always = sequential_cost(self.cheap_usd, verifier_usd, self.flagship_usd, 1.0 - float(accepted.mean()))
        if n_routed == 0:
            raise TooLittleData(
                f"routing would not pay: no bound lowers the expected cost of {always:.3g} USD per query"
            )
        columns, model = fit_choice(choice, rows, accepted, config.seed)
        why = (
            f"routes {n_routed} of {len(queries)} queries straight to the flagship: expected cost per query"
            f" {always:.3g} -> {always - saved_usd / len(queries):.3g} USD"
        )
        scorer = LearnedScorer("router", features, columns, (model,), choice.why, self.embed)
        return Router(scorer, route_below, config.explore, config.seed, why)


def best_bound(
    chances: NDArray[np.float64],
    accepted: NDArray[np.bool_],
    cheap_usd: float,
    verifier_usd: float,
    flagship_usd: float,
) -> tuple[float, int, float]:
    """(bound, queries below it, USD saved on them) of the bound that saves most; (0.0, 0, 0.0) where none saves.

    Routing n queries of which a would have been accepted saves n x (small + verifier) and costs a x large.
    """
    order = np.argsort(chances, kind="stable")
    ranked, lost = chances[order], np.cumsum(accepted[order]) + PSEUDO_ACCEPTED
    n = np.arange(1, len(ranked) + 1)
    saved = n * (cheap_usd + verifier_usd) - lost * flagship_usd
    # A bound lies between two different chances.
    saved[:-1][ranked[1:] == ranked[:-1]] = -np.inf
    best = int(np.argmax(saved)) if len(saved) else 0
    if not len(saved) or saved[best] <= 0:
        return 0.0, 0, 0.0
    bound = (
        float((ranked[best] + ranked[best + 1]) / 2) if best + 1 < len(ranked) else float(np.nextafter(ranked[best], 2))
    )
    return bound, best + 1, float(saved[best])
