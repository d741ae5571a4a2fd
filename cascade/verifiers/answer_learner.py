"""A learned verifier over what can be read off without log-probabilities: the answer's text, the query, its peers.

FrugalGPT's scoring function (Chen, Zaharia and Zou 2023) with small models in place of a fine-tuned one: the mean
log-odds of a logistic regression and of boosted trees, because either wins on some of the recorded pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade.trace import Answer, Query
from cascade.verifiers.answer_text import N_FORM, query_features, text_features
from cascade.verifiers.peers import PeerScorer
from cascade.verifiers.score import Score, Scorer, TooLittleData

Matrix = NDArray[np.float64]
Embed = Callable[[Sequence[str]], NDArray[Any]]
"""Texts to (n, d) vectors."""
FOLDS = 5
KINDS = ("logistic", "trees")


@dataclass(frozen=True, slots=True)
class Odds:
    """Log-odds of a yes/no question as a function of features; constant where the training data had one answer."""

    models: tuple[Any, ...] = field(repr=False)
    constant: float

    def __call__(self, features: Matrix) -> Matrix:
        """(n, d) to (n,)."""
        if not self.models:
            return np.full(len(features), self.constant)
        p = [np.clip(model.predict_proba(features)[:, 1], 1e-4, 1 - 1e-4) for model in self.models]
        odds: Matrix = np.mean([np.log(one / (1 - one)) for one in p], axis=0)
        return odds


def fit_odds(features: Matrix, target: NDArray[np.bool_], kinds: Sequence[str] = KINDS, seed: int = 0) -> Odds:
    """Fit to `features` (n, d), `target` (n,). Deterministic for a seed."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    share = (float(target.sum()) + 1) / (len(target) + 2)
    if min(int(target.sum()), int((~target).sum())) < FOLDS:
        return Odds((), float(np.log(share / (1 - share))))
    shape = {"max_depth": 3, "max_iter": 80, "learning_rate": 0.06, "l2_regularization": 1.0}
    made = {
        "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000)),
        "trees": lambda: HistGradientBoostingClassifier(**shape, random_state=seed),
    }
    return Odds(tuple(made[kind]().fit(features, target) for kind in kinds), 0.0)


@dataclass(frozen=True, slots=True)
class QueryModel:
    """Log-odds of something from the query alone: trees over its form, a linear model over form and embedding."""

    linear: Odds
    trees: Odds

    def __call__(self, known: Matrix) -> Matrix:
        """(n, d) of `query_matrix` to (n,)."""
        odds: Matrix = (self.linear(known) + self.trees(known[:, :N_FORM])) / 2
        return odds


def fit_query_model(known: Matrix, target: NDArray[np.bool_], seed: int = 0) -> QueryModel:
    """`known`: (n, d) of `query_matrix`."""
    trees = fit_odds(known[:, :N_FORM], target, ("trees",), seed)
    return QueryModel(fit_odds(known, target, ("logistic",), seed), trees)


def fit_cost_model(known: Matrix, usd: Matrix, seed: int = 0) -> Callable[[Matrix], Matrix]:
    """Expected USD of an answer from the query's form (its length, above all). `known`: (n, d) of `query_matrix`."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    trees = HistGradientBoostingRegressor(max_depth=3, max_iter=60, random_state=seed)
    trees.fit(known[:, :N_FORM], np.log(np.maximum(usd, 1e-12)))
    return lambda rows: np.asarray(np.exp(trees.predict(rows[:, :N_FORM])), dtype=np.float64)


def crossfit(
    fit: Callable[[Matrix, NDArray[Any]], Callable[[Matrix], Matrix]],
    features: Matrix,
    target: NDArray[Any],
    seed: int = 0,
) -> Matrix:
    """(n,) predictions of each row by models that have not seen it."""
    fold = np.random.default_rng(seed).permutation(len(target)) % FOLDS
    odds = np.zeros(len(target))
    for k in range(FOLDS):
        if (fold == k).any() and (fold != k).any():
            odds[fold == k] = fit(features[fold != k], target[fold != k])(features[fold == k])
    return odds


def query_matrix(queries: Sequence[Query], embed: Embed | None) -> Matrix:
    """(n, d) features known before anybody answers: first the form (N_FORM columns), then the embedding."""
    form = np.array([list(query_features(query).values()) for query in queries], dtype=np.float64).reshape(-1, N_FORM)
    if embed is None or not queries:
        return form
    return np.hstack([form, np.asarray(embed([query.text for query in queries]), dtype=np.float64)])


@dataclass(frozen=True, slots=True)
class AnswerScorer:
    """The fitted verifier: log-odds that the answer is right."""

    odds: Odds
    query_model: QueryModel
    embed: Embed | None
    peers: PeerScorer | None

    @property
    def name(self) -> str:
        return "learned" if self.peers is None else f"learned with {self.peers.name}"

    def score(self, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Score]:
        """One score per answer, on the scale of log-odds; costs what its peers cost."""
        if not queries:
            return []
        features, peers = _features(queries, answers, self.peers)
        values = self.odds(np.column_stack([features, self.query_model(query_matrix(queries, self.embed))]))
        return _scores(values, peers)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; the fitted models themselves are not in it."""
        return {"kind": "answer_learner", "peers": None if self.peers is None else list(self.peers.peers)}


@dataclass(frozen=True, slots=True)
class AnswerLearner:
    """An AnswerScorer that has first to learn from graded answers."""

    embed: Embed | None = None
    peers: PeerScorer | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        return "learned" if self.peers is None else f"learned with {self.peers.name}"

    def fit(
        self,
        queries: Sequence[Query],
        answers: Sequence[Answer],
        references: Sequence[str],
        correct: NDArray[np.bool_],
    ) -> tuple[Scorer, list[Score]]:
        """The fitted scorer, and cross-fitted scores of its own training answers (see `Trainable.fit`)."""
        if not queries:
            raise TooLittleData("a learned verifier has no graded answers to learn from; give some hundreds")
        known = query_matrix(queries, self.embed)
        features, peers = _features(queries, answers, self.peers)
        # What the query alone says goes in as one feature, from models that have not seen the row.
        by_query = crossfit(partial(fit_query_model, seed=self.seed), known, correct, self.seed)
        stacked = np.column_stack([features, by_query])
        odds = fit_odds(stacked, correct, seed=self.seed)
        scorer = AnswerScorer(odds, fit_query_model(known, correct, self.seed), self.embed, self.peers)
        return scorer, _scores(crossfit(partial(fit_odds, seed=self.seed), stacked, correct, self.seed), peers)


def _features(
    queries: Sequence[Query], answers: Sequence[Answer], peers: PeerScorer | None
) -> tuple[Matrix, list[Score] | None]:
    rows = [list(text_features(q, a).values()) for q, a in zip(queries, answers, strict=True)]
    features = np.array(rows, dtype=np.float64)
    if peers is None:
        return features, None
    opinions = peers.score(queries, answers)
    agreement = np.array([-1.0 if opinion.value is None else opinion.value for opinion in opinions])
    return np.column_stack([features, agreement]), opinions


def _scores(values: Matrix, peers: list[Score] | None) -> list[Score]:
    if peers is None:
        return [Score(float(value)) for value in values]
    pairs = zip(values, peers, strict=True)
    return [Score(float(value), None, peer.cost_usd, peer.latency_s) for value, peer in pairs]
