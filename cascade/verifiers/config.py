"""Which scorers a verifier has, as a run's configuration names them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cascade.confidence import SIGNALS
from cascade.cost import PriceTable
from cascade.errors import InputError
from cascade.router import RouterConfig, RouterTrainer
from cascade.tiers import Flagship, SamplingTier
from cascade.trace import Answer, Query
from cascade.verifiers.accounts import add_known
from cascade.verifiers.bank import AnswerBank, Embed
from cascade.verifiers.chain import ChainConfig
from cascade.verifiers.consistency import ConsistencyConfig, SelfConsistency
from cascade.verifiers.groups import QueryGroups, read_groups
from cascade.verifiers.judge import JudgeConfig, JudgeModel
from cascade.verifiers.learned import LearnedConfig, LearnedTrainer
from cascade.verifiers.learned_files import read_learned
from cascade.verifiers.score import Scorer, TooLittleData, Trainable
from cascade.verifiers.token_confidence import TokenConfidenceScorer
from cascade.verifiers.traffic import TrafficAnswers
from cascade.verifiers.verifier import Verifier


class VerifierConfig(BaseModel):
    """Scorers after the rules, cheapest first: `kind`, then self-consistency, then a judge, as far as they are set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["confidence", "learned"] = "confidence"
    """confidence: one token signal (calibration.signal); learned: a small classifier over several kinds of features."""
    learned: LearnedConfig = LearnedConfig()
    consistency: ConsistencyConfig | None = None
    judge: JudgeConfig | None = None
    chain: ChainConfig = ChainConfig()
    cells: int = Field(default=40, ge=2)
    """With `calibration.by_group`: into how many parts at most the pool's queries are divided."""


@dataclass(frozen=True)
class Toolbox:
    """What scorers need beside the answer: only what the configured ones use is ever asked for."""

    config: VerifierConfig
    embed: Embed
    parts_root: Path
    """Folder of what is too large for a verifier's record, by digest."""
    prices: PriceTable
    sampler: Callable[[], SamplingTier]
    """The cheap tier, to draw samples from."""
    router: RouterConfig | None = None
    progress: bool = True
    judge_asker: Callable[[JudgeConfig], Flagship] | None = None
    """Who carries questions to the judge; None: they go straight to its endpoint, as in service."""

    @property
    def compares(self) -> bool:
        """Whether the verifier compares an answer with those of other queries."""
        return self.config.kind == "learned" and "neighbours" in self.config.learned.blocks

    @property
    def needs_bank(self) -> bool:
        """Whether a scorer or the router looks at flagship answers to other queries."""
        return self.compares or self.router is not None

    def scorers(
        self, signal: str, bank: AnswerBank | None, traffic: TrafficAnswers | None = None
    ) -> list[Scorer | Trainable]:
        """The configured chain, still to be fitted; empty where one token confidence is all there is.

        `signal` is the configured token confidence; for "auto" a chain begins with the mean log-probability.
        """
        config = self.config
        later: list[Scorer | Trainable] = []
        if config.consistency is not None:
            later.append(SelfConsistency(self.sampler(), config.consistency, self.prices, progress=self.progress))
        if config.judge is not None:
            later.append(self._judge(config.judge))
        if config.kind == "learned":
            return [LearnedTrainer(config.learned, self.embed, bank, traffic), *later]
        return [TokenConfidenceScorer(signal if signal in SIGNALS else "mean_logprob"), *later] if later else []

    def _judge(self, config: JudgeConfig) -> JudgeModel:
        asker = self.judge_asker(config) if self.judge_asker is not None else None
        return JudgeModel(config, self.prices, asker=asker, progress=self.progress)

    def router_trainer(
        self, bank: AnswerBank | None, cheap: Iterable[Answer], flagship: Iterable[Answer]
    ) -> RouterTrainer | None:
        """The configured router, still to be fitted, priced by these answers; None where none is configured."""
        if self.router is None:
            return None
        costs = [self._mean_usd(answers) for answers in (cheap, flagship)]
        return RouterTrainer(self.router, self.embed, bank, *costs)

    def _mean_usd(self, answers: Iterable[Answer]) -> float | None:
        costs = [self.prices.cost_usd(answer) for answer in answers]
        total = add_known(costs)
        return None if total is None or not costs else total / len(costs)

    def groups(self, earlier: Sequence[Query]) -> QueryGroups | None:
        """Parts of the traffic, made of queries outside the calibration split; None where there are too few."""
        try:
            return QueryGroups.fit(earlier, self.embed, self.config.cells)
        except TooLittleData:
            return None

    def open(self, row: dict[str, Any]) -> Verifier:
        """A stored verifier with its scorers and groups. Raises InputError where a part is missing or altered."""
        return Verifier.from_dict(row, self.load, lambda digest: read_groups(self.parts_root, digest, self.embed))

    def load(self, row: dict[str, Any]) -> Scorer:
        """A fitted scorer from its `to_dict` form; a `ScorerLoader`. Raises InputError for an unknown kind."""
        kind = row.get("kind")
        if kind == "token_confidence":
            return TokenConfidenceScorer(str(row["signal"]))
        if kind == "learned":
            return read_learned(self.parts_root, str(row["digest"]), self.embed)
        if kind == SelfConsistency.name:
            settings = ConsistencyConfig.model_validate(row["config"])
            return SelfConsistency(self.sampler(), settings, self.prices, progress=self.progress)
        if kind == JudgeModel.name:
            return self._judge(JudgeConfig.model_validate(row["config"]))
        raise InputError(f"the verifier holds a scorer of unknown kind {kind!r}: fit the verifier again")
