"""A small classifier that learns, from graded answers, which cheap answers are right.

FrugalGPT's idea (Chen, Zaharia and Zou 2023: a scoring function over query and answer), with token confidence and the
agreement with the nearest flagship-answered queries among its features. It is fitted on the learning part of the
calibration split; the kind of classifier is chosen there by cross-validated log-loss; the threshold is tested on
answers that neither the classifier nor its answer bank has seen.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cascade.trace import Answer, Query
from cascade.verifiers.bank import AnswerBank, AnswerForm, Embed, text_digest
from cascade.verifiers.features import Block, Features, fit_features
from cascade.verifiers.learned_files import scorer_content
from cascade.verifiers.models import RECIPES, Model, Recipe, fit_model
from cascade.verifiers.score import Score, Scorer, TooLittleData

MIN_OF_A_KIND = 10
"""Right and wrong answers that must be there to learn from."""


class LearnedConfig(BaseModel):
    """What a learned verifier looks at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    blocks: tuple[Block, ...] = ("confidence", "query", "answer", "neighbours")
    """Kinds of features; those that the data do not carry are left out."""
    neighbours: int = Field(default=20, ge=1)
    """How many of the nearest flagship-answered queries are asked."""
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
    name: str = "learned"

    def fit(
        self, queries: Sequence[Query], answers: Sequence[Answer], references: Sequence[str], correct: np.ndarray
    ) -> tuple[Scorer, list[Score]]:
        """The classifier and its cross-fitted scores (see `Trainable.fit`)."""
        config = self.config
        features = fit_features(
            queries,
            answers,
            config.blocks,
            embed=self.embed,
            bank=self._whole_bank(queries, references),
            neighbours=config.neighbours,
            dimensions=config.dimensions,
            form=config.answer_form,
        )
        if not features.names:
            reasons = "; ".join(f"{block}: {why}" for block, why in features.left_out.items())
            raise TooLittleData(f"nothing to learn from ({reasons})")
        rows = features.rows(queries, answers, self.embed)
        known = np.isfinite(rows).all(axis=1)
        folds = text_folds([queries[i] for i in np.flatnonzero(known).tolist()], config.folds, config.seed)
        choice = choose_model(rows[known], correct[known], folds, features.names, config.seed)
        columns, model = fit_choice(choice, rows[known], correct[known], config.seed)
        scorer = LearnedScorer(self.name, features, columns, model, choice.why, self.embed)
        values = np.full(len(queries), np.nan)
        values[known] = choice.predicted
        return scorer, [_score(value, 0.0) for value in values.tolist()]

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

    def score(self, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Score]:
        """Scores in order; free of charge, its time spread evenly over the batch."""
        if not queries:
            return []
        started = time.perf_counter()
        values = self.predict(queries, answers)
        latency_s = (time.perf_counter() - started) / len(queries)
        return [_score(value, latency_s) for value in values.tolist()]

    def predict(self, queries: Sequence[Query], answers: Sequence[Answer] | None) -> NDArray[np.float64]:
        """(n,) probabilities, NaN where a feature is missing."""
        rows = self.features.rows(queries, answers, self.embed)[:, self.columns]
        known = np.isfinite(rows).all(axis=1)
        values = np.full(len(rows), np.nan)
        if known.any():
            values[known] = self.model.predict(rows[known])
        return values

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "learned", "name": self.name, "digest": self.digest, "why": self.why}

    @cached_property
    def content(self) -> bytes:
        """All that `read_learned` needs but the embedder: one safetensors file with a JSON head."""
        return scorer_content(self)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content: the name of the folder that keeps it."""
        return hashlib.sha256(self.content).hexdigest()


def _score(value: float, latency_s: float) -> Score:
    if np.isnan(value):
        return Score(None, "a confidence signal that the verifier learnt from is missing", 0.0, latency_s)
    return Score(value, None, 0.0, latency_s)


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
    embedding helps; the trees are tried on what they found better. Raises TooLittleData with too few of either kind."""
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

    def attempt(kind: str, columns: NDArray[np.bool_]) -> None:
        for recipe in (recipe for recipe in RECIPES if recipe.kind == kind):
            predicted = _cross_predict(rows[:, columns], correct, folds, recipe, seed)
            tried.append((_log_loss(predicted, correct), recipe, columns, predicted))

    for columns in column_sets:
        attempt("logistic", columns)
    attempt("trees", min(tried, key=lambda trial: trial[0])[2])
    loss, recipe, columns, predicted = min(tried, key=lambda row: row[0])
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


def _best_of_each(tried: Sequence[_Trial]) -> dict[Literal["logistic", "trees"], float]:
    return {kind: min(loss for loss, recipe, _, _ in tried if recipe.kind == kind) for kind in ("logistic", "trees")}


def _cross_predict(
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
