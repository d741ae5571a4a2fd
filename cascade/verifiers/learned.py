"""A small classifier that learns, from graded answers, which cheap answers are right.

FrugalGPT's idea (Chen, Zaharia and Zou 2023: a scoring function over query and answer), with token confidence, the
agreement with the nearest flagship-answered queries and with the cheap tier's own answers around, what the answer's
text gives away and the agreement of other cheap models among its features. It is fitted on the learning part of the
calibration split; the kind of classifier is chosen there by cross-validated log-loss; the threshold is tested on
answers that neither the classifier nor its answer bank has seen.
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
from cascade.verifiers.bank import AnswerBank, AnswerForm, Embed, text_digest
from cascade.verifiers.features import Block, Features, fit_features
from cascade.verifiers.learned_files import FILE, scorer_content
from cascade.verifiers.models import KINDS, RECIPES, Kind, Model, Recipe, fit_model, mean_odds
from cascade.verifiers.peers import PeerScorer, agreement
from cascade.verifiers.score import Score, Scorer, TooLittleData
from cascade.verifiers.traffic import TrafficAnswers

MIN_OF_A_KIND = 10
"""Right and wrong answers that must be there to learn from."""


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
        self, queries: Sequence[Query], answers: Sequence[Answer], references: Sequence[str], correct: np.ndarray
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
        folds = text_folds([queries[i] for i in np.flatnonzero(known).tolist()], config.folds, config.seed)
        choice = choose_model(rows[known], correct[known], folds, features.names, config.seed)
        columns, model = fit_choice(choice, rows[known], correct[known], config.seed)
        scorer = LearnedScorer(self.name, features, columns, model, choice.why, self.embed, peers)
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
    """P(the cheap answer is right), by a fitted classifier. An answer that lacks a feature gets no value."""

    name: str
    features: Features
    columns: NDArray[np.int64]
    """Columns of the feature space that the model uses."""
    model: Model
    why: str
    """How the model was chosen, in one sentence."""
    embed: Embed | None
    peers: PeerScorer | None = None
    """Who is asked for the block "peers"; a scorer with peers cannot be reloaded without them."""
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
        if known.any():
            values[known] = self.model.predict(rows[known])
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


@dataclass(frozen=True)
class Choice:
    """A kind of classifier, chosen by cross-validation."""

    recipe: Recipe
    columns: NDArray[np.bool_]
    predicted: NDArray[np.float64]
    """Cross-fitted P(right)."""
    why: str


_Trial = tuple[float, Recipe, NDArray[np.bool_], NDArray[np.float64]]
"""Log-loss, recipe, columns, cross-fitted predictions."""


def text_folds(queries: Sequence[Query], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of each query; equal texts share one, or a model would be tried on what it has seen."""
    keys = [f"{seed}:{text_digest(query.text)}" for query in queries]
    order = {key: place for place, key in enumerate(sorted(set(keys), key=text_digest))}
    return np.array([order[key] % n_folds for key in keys], dtype=np.int64)


def choose_model(
    rows: NDArray[np.float64], correct: np.ndarray, folds: NDArray[np.int64], names: Sequence[str], seed: int
) -> Choice:
    """The recipe of least cross-validated log-loss. The linear ones, which take moments, say whether the query's
    embedding helps; the trees, and the mean of the best of either kind, are tried on what they found better. Raises
    TooLittleData with too few of either kind."""
    few = min(int(correct.sum()), int((~correct).sum()))
    if few < MIN_OF_A_KIND:
        raise TooLittleData(
            f"{len(correct)} graded answers with {few} of the rarer kind: at least {MIN_OF_A_KIND} of each are needed"
        )
    plain = np.array([not name.startswith("query.") for name in names])
    column_sets = [np.ones(len(names), dtype=bool)]
    if plain.any() and not plain.all():
        column_sets.append(plain)
    tried: list[_Trial] = []

    def attempt(kind: Kind, columns: NDArray[np.bool_]) -> None:
        for recipe in (recipe for recipe in RECIPES if recipe.kind == kind):
            predicted = cross_predict(rows[:, columns], correct, folds, recipe, seed)
            tried.append((_log_loss(predicted, correct), recipe, columns, predicted))

    for columns in column_sets:
        attempt("logistic", columns)
    line = min(tried, key=_loss)
    attempt("trees", line[2])
    trees = min((trial for trial in tried if trial[1].kind == "trees"), key=_loss)
    both = mean_odds([line[3], trees[3]])
    tried.append((_log_loss(both, correct), Recipe("mean", parts=(line[1], trees[1])), line[2], both))
    loss, recipe, columns, predicted = min(tried, key=_loss)
    others = ", ".join(f"{name} {best:.3f}" for name, best in _best_of_each(tried).items())
    embedding = " and the query's embedding" if columns.all() and not plain.all() else ""
    why = (
        f"{recipe.name} over {int((columns & plain).sum())} features{embedding}: cross-validated log-loss {loss:.3f}"
        f" on {len(correct)} answers (best of each kind: {others})"
    )
    return Choice(recipe, columns, predicted, why)


def fit_choice(
    choice: Choice, rows: NDArray[np.float64], correct: np.ndarray, seed: int
) -> tuple[NDArray[np.int64], Model]:
    """(columns used, model) of the chosen kind, on all rows."""
    columns = np.flatnonzero(choice.columns)
    return columns, fit_model(rows[:, columns], correct, choice.recipe, seed)


def _loss(trial: _Trial) -> float:
    return trial[0]


def _best_of_each(tried: Sequence[_Trial]) -> dict[Kind, float]:
    return {kind: min(loss for loss, recipe, _, _ in tried if recipe.kind == kind) for kind in KINDS}


def cross_predict(
    rows: NDArray[np.float64], correct: np.ndarray, folds: NDArray[np.int64], recipe: Recipe, seed: int
) -> NDArray[np.float64]:
    predicted = np.full(len(rows), correct.mean())
    for fold in np.unique(folds):
        held = folds == fold
        if correct[~held].all() or not correct[~held].any():
            continue
        predicted[held] = fit_model(rows[~held], correct[~held], recipe, seed).predict(rows[held])
    return predicted


def _log_loss(predicted: NDArray[np.float64], correct: np.ndarray) -> float:
    clipped = np.clip(predicted, 1e-6, 1 - 1e-6)
    return float(-np.mean(np.where(correct, np.log(clipped), np.log1p(-clipped))))
