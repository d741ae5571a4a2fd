"""A small classifier that learns, from graded answers, which cheap answers are right.

FrugalGPT's idea (Chen, Zaharia and Zou 2023: a scoring function over query and answer), with token confidence, the
agreement with the nearest flagship-answered queries and with the cheap tier's own answers around, what the answer's
text gives away and the agreement of other cheap models among its features. The kind of classifier is chosen by
cross-validated log-loss on the graded answers that teach it.

Where all graded answers of the calibration split do, one model is kept per fold, which has not seen that fold, and a
query is judged by the model of its text's fold: the threshold is then tested on scores like those that it will meet.
(The cross-validated error estimates the mean error of just these models: Bayle, Bayle, Janson and Mackey 2020,
"Cross-validation confidence intervals for test error".) Where a part of them teaches it, there is one model, and the
threshold is tested on answers that neither it nor its answer bank has seen.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cascade.trace import Answer, Query
from cascade.verifiers.accounts import add_known
from cascade.verifiers.bank import AnswerBank, AnswerForm, Embed
from cascade.verifiers.choice import choose_model, fit_by_fold, fit_choice, fixed_folds, text_folds
from cascade.verifiers.features import Block, Features, fit_features
from cascade.verifiers.learned_files import FILE, scorer_content
from cascade.verifiers.models import Model
from cascade.verifiers.peers import PeerScorer, agreement
from cascade.verifiers.score import Score, Scorer, TooLittleData
from cascade.verifiers.traffic import TrafficAnswers


class LearnedConfig(BaseModel):
    """What a learned verifier looks at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    blocks: tuple[Block, ...] = ("confidence", "query", "answer", "neighbours", "traffic")
    """Kinds of features; those that the data do not carry are left out."""
    neighbours: int = Field(default=20, ge=1)
    """How many of the nearest answered queries are asked."""
    surest: int = Field(default=5000, ge=0)
    """Most of the pool's surest cheap answers that join the flagship's in the bank; 0: none. They are free, and help
    most to see where a trained student has forgotten what the champion knew."""
    traffic: int = Field(default=5000, ge=2)
    """Most of the champion's answers to the pool that the block "traffic" compares with."""
    dimensions: int = Field(default=16, ge=1)
    """Main components of the query's embedding at most; one per 20 answers to learn from."""
    answer_form: AnswerForm = "json"
    """How answers are compared with those of the neighbours (`cascade.verifiers.bank.answer_fields`)."""
    folds: int = Field(default=5, ge=2)
    seed: int = 0


@dataclass(frozen=True)
class LearnedTrainer:
    """Becomes a `LearnedScorer`. `bank` holds answers known before; those that it learns from are added."""

    config: LearnedConfig
    embed: Embed | None = None
    bank: AnswerBank | None = None
    traffic: TrafficAnswers | None = None
    """The cheap tier's answers to the traffic, none of them graded, where they are known."""
    peers: PeerScorer | None = None
    """Other models, asked and charged on every answer where the block "peers" is looked at."""

    @property
    def name(self) -> str:
        """Name of the scorer that it becomes; says which peers it asks."""
        return "learned" if self._asked is None else f"learned with {self._asked.name}"

    @property
    def _asked(self) -> PeerScorer | None:
        return self.peers if "peers" in self.config.blocks else None

    def fit(
        self,
        queries: Sequence[Query],
        answers: Sequence[Answer],
        references: Sequence[str],
        correct: np.ndarray,
        *,
        by_fold: bool = False,
    ) -> tuple[Scorer, list[Score]]:
        """The classifier and its cross-fitted scores (see `Trainable.fit`)."""
        config = self.config
        if not queries:
            raise TooLittleData("no graded answers to learn from; give some hundreds")
        peers = self._asked
        features = fit_features(
            queries,
            answers,
            config.blocks,
            embed=self.embed,
            bank=self._whole_bank(queries, references),
            neighbours=config.neighbours,
            dimensions=config.dimensions,
            form=config.answer_form,
            traffic=self.traffic,
            peers=peers is not None,
        )
        if not features.names:
            reasons = "; ".join(f"{block}: {why}" for block, why in features.left_out.items())
            raise TooLittleData(f"nothing to learn from ({reasons})")
        opinions = None if peers is None else peers.score(queries, answers)
        rows = features.rows(queries, answers, self.embed, agreement(opinions))
        known = np.isfinite(rows).all(axis=1)
        learnt = [queries[i] for i in np.flatnonzero(known).tolist()]
        folds = (fixed_folds if by_fold else text_folds)(learnt, config.folds, config.seed)
        choice = choose_model(rows[known], correct[known], folds, features.names, config.seed)
        if by_fold:
            columns, models = fit_by_fold(choice, rows[known], correct[known], folds, config.folds, config.seed)
        else:
            columns, model = fit_choice(choice, rows[known], correct[known], config.seed)
            models = (model,)
        scorer = LearnedScorer(self.name, features, columns, models, choice.why, self.embed, peers, config.seed)
        values = np.full(len(queries), np.nan)
        values[known] = choice.predicted
        return scorer, _scores(values, 0.0, opinions)

    def _whole_bank(self, queries: Sequence[Query], references: Sequence[str]) -> AnswerBank | None:
        if self.embed is None or "neighbours" not in self.config.blocks:
            return None
        own = AnswerBank.build(queries, references, self.embed)
        return own if self.bank is None else own.merge(self.bank)


@dataclass(frozen=True, eq=False)
class LearnedScorer:
    """P(the cheap answer is right), by a fitted classifier, or by one for each fold of the queries' texts, which has
    learnt from none of that fold. An answer that lacks a feature gets no value."""

    name: str
    features: Features
    columns: NDArray[np.int64]
    """Columns of the feature space that the model uses."""
    models: tuple[Model, ...]
    """One, or one for each fold."""
    why: str
    """How the model was chosen, in one sentence."""
    embed: Embed | None
    peers: PeerScorer | None = None
    """Who is asked for the block "peers"; a scorer with peers cannot be reloaded without them."""
    fold_seed: int = 0
    """Seed of `fixed_folds`, where there are several models."""
    file: ClassVar[str] = FILE

    def score(self, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Score]:
        """Scores in order; they cost what their peers cost. Own time is spread evenly over the batch. Raises TierError
        when a peer does not answer."""
        if not queries:
            return []
        opinions = None if self.peers is None else self.peers.score(queries, answers)
        started = time.perf_counter()
        values = self.predict(queries, answers, opinions)
        latency_s = (time.perf_counter() - started) / len(queries)
        return _scores(values, latency_s, opinions)

    def predict(
        self, queries: Sequence[Query], answers: Sequence[Answer] | None, opinions: Sequence[Score] | None = None
    ) -> NDArray[np.float64]:
        """(n,) probabilities, NaN where a feature is missing. `opinions`: its peers', where it has any."""
        rows = self.features.rows(queries, answers, self.embed, agreement(opinions))[:, self.columns]
        known = np.isfinite(rows).all(axis=1)
        values = np.full(len(rows), np.nan)
        folds = fixed_folds(queries, len(self.models), self.fold_seed)
        for number, model in enumerate(self.models):
            asked = known & (folds == number)
            if asked.any():
                values[asked] = model.predict(rows[asked])
        return values

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "learned", "name": self.name, "digest": self.digest, "why": self.why}

    @cached_property
    def content(self) -> bytes:
        """All that `read_learned` needs but the embedder and the peers: one safetensors file with a JSON head."""
        return scorer_content(self)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content: the name of the folder that keeps it."""
        return hashlib.sha256(self.content).hexdigest()


def _scores(values: NDArray[np.float64], latency_s: float, opinions: Sequence[Score] | None) -> list[Score]:
    missing = "a confidence signal that the verifier learnt from is missing"
    found = [
        Score(None, missing, 0.0, latency_s) if np.isnan(value) else Score(value, None, 0.0, latency_s)
        for value in values.tolist()
    ]
    if opinions is None:
        return found
    return [
        replace(score, cost_usd=peers.cost_usd, latency_s=add_known([score.latency_s, peers.latency_s]))
        for score, peers in zip(found, opinions, strict=True)
    ]
