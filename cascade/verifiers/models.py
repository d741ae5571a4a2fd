"""Small classifiers as plain arrays: fitted by scikit-learn, kept and applied without it (and without pickle)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]


class Model(Protocol):
    """Rows of features to P(right)."""

    def predict(self, rows: Matrix) -> Matrix:
        """(n, f) without NaN -> (n,) in 0..1."""

    def arrays(self) -> Arrays:
        """All that `model_from_arrays` needs, the kind by its keys."""


@dataclass(frozen=True, eq=False)
class LogisticModel:
    """Logistic regression on standardised columns."""

    mean: Matrix
    scale: Matrix
    weights: Matrix
    """(f + 1,): one per column, then the constant."""

    def predict(self, rows: Matrix) -> Matrix:
        logits = (rows - self.mean) / self.scale @ self.weights[:-1] + self.weights[-1]
        return _sigmoid(logits)

    def arrays(self) -> Arrays:
        return {"logistic.mean": self.mean, "logistic.scale": self.scale, "logistic.weights": self.weights}


@dataclass(frozen=True, eq=False)
class BoostedTrees:
    """Gradient-boosted regression trees of log-odds; all trees in one array, padded to the largest."""

    feature: NDArray[np.int32]
    """(trees, nodes); -1 marks a leaf."""
    threshold: Matrix
    """(trees, nodes): left where the column, as float32, is at most this."""
    children: NDArray[np.int32]
    """(trees, nodes, 2): left and right."""
    value: Matrix
    """(trees, nodes): log-odds added at a leaf, learning rate included."""
    start: Matrix
    """(1,): log-odds before the first tree."""

    def predict(self, rows: Matrix) -> Matrix:
        columns = rows.astype(np.float32).astype(np.float64)
        trees = np.arange(len(self.feature))
        node = np.zeros((len(rows), len(trees)), dtype=np.int64)
        while True:
            feature = self.feature[trees, node]
            inner = feature >= 0
            if not inner.any():
                break
            seen = np.take_along_axis(columns, np.where(inner, feature, 0), axis=1)
            side = (seen > self.threshold[trees, node]).astype(np.int64)
            node = np.where(inner, self.children[trees, node, side], node)
        return _sigmoid(self.start[0] + self.value[trees, node].sum(axis=1))

    def arrays(self) -> Arrays:
        return {
            "trees.feature": self.feature,
            "trees.threshold": self.threshold,
            "trees.children": self.children,
            "trees.value": self.value,
            "trees.start": self.start,
        }


@dataclass(frozen=True, eq=False)
class MeanOdds:
    """The mean of two models' log-odds: a line that extrapolates, corrected by trees that see what is not linear."""

    line: LogisticModel
    trees: BoostedTrees

    def predict(self, rows: Matrix) -> Matrix:
        return mean_odds([self.line.predict(rows), self.trees.predict(rows)])

    def arrays(self) -> Arrays:
        return self.line.arrays() | self.trees.arrays()


def constant_model(chance: float, n_columns: int) -> LogisticModel:
    """Says `chance` (clipped at 1e-6) of every row."""
    clipped = min(max(chance, 1e-6), 1 - 1e-6)
    weights = np.append(np.zeros(n_columns), np.log(clipped / (1 - clipped)))
    return LogisticModel(np.zeros(n_columns), np.ones(n_columns), weights)


def mean_odds(chances: Sequence[Matrix]) -> Matrix:
    """Probabilities (n,), one array per model, to the probability at the mean of their log-odds, clipped at 1e-6."""
    clipped = [np.clip(each, 1e-6, 1 - 1e-6) for each in chances]
    return _sigmoid(np.mean([np.log(each) - np.log1p(-each) for each in clipped], axis=0))


def models_to_arrays(models: Sequence[Model]) -> Arrays:
    """Several models' arrays under one set of names; a single model's keep theirs."""
    if len(models) == 1:
        return models[0].arrays()
    return {f"{i}/{name}": array for i, model in enumerate(models) for name, array in model.arrays().items()}


def models_from_arrays(arrays: Mapping[str, NDArray[Any]]) -> tuple[Model, ...]:
    """Inverse of `models_to_arrays`, whatever other arrays there are. Raises KeyError where an array is missing."""
    own: dict[int, Arrays] = {}
    for name, array in arrays.items():
        number, slash, rest = name.partition("/")
        if slash:
            own.setdefault(int(number), {})[rest] = array
    return tuple(model_from_arrays(own[number]) for number in sorted(own)) or (model_from_arrays(arrays),)


def model_from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Model:
    """Inverse of `Model.arrays`. Raises KeyError where an array is missing."""
    parts: dict[str, Arrays] = {"logistic": {}, "trees": {}}
    for name, array in arrays.items():
        kind, _, key = name.partition(".")
        if kind in parts:
            parts[kind][key] = array
    if parts["logistic"] and parts["trees"]:
        return MeanOdds(LogisticModel(**parts["logistic"]), _trees_from(parts["trees"]))
    return LogisticModel(**parts["logistic"]) if parts["logistic"] else _trees_from(parts["trees"])


def _trees_from(parts: Mapping[str, NDArray[Any]]) -> BoostedTrees:
    return BoostedTrees(**{name: parts[name] for name in ("feature", "threshold", "children", "value", "start")})


Kind = Literal["logistic", "trees", "mean"]
KINDS: tuple[Kind, ...] = ("logistic", "trees", "mean")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to fit a classifier."""

    kind: Kind
    strength: float = 0.0
    """Inverse regularisation C of the logistic regression; learning rate of the trees."""
    depth: int = 0
    parts: tuple[Recipe, ...] = ()
    """Of a mean: a logistic recipe and one of trees."""

    @property
    def name(self) -> str:
        if self.kind == "mean":
            return f"mean of {' and '.join(part.name for part in self.parts)}"
        return f"logistic C={self.strength:g}" if self.kind == "logistic" else f"trees of depth {self.depth}"


TREES = 60
RECIPES = (
    Recipe("logistic", 0.03),
    Recipe("logistic", 0.3),
    Recipe("logistic", 3.0),
    Recipe("trees", 0.12, 2),
    Recipe("trees", 0.08, 3),
)
"""Tried one by one; the mean of the best logistic and the best trees is tried after them."""


def fit_model(rows: Matrix, right: NDArray[np.bool_], recipe: Recipe, seed: int) -> Model:
    """Fit on (n, f) rows without NaN and (n,) labels of both kinds."""
    if recipe.kind == "mean":
        line, trees = recipe.parts
        return MeanOdds(_fit_logistic(rows, right, line), _fit_trees(rows, right, trees, seed))
    return _fit_logistic(rows, right, recipe) if recipe.kind == "logistic" else _fit_trees(rows, right, recipe, seed)


def _fit_logistic(rows: Matrix, right: NDArray[np.bool_], recipe: Recipe) -> LogisticModel:
    from sklearn.linear_model import LogisticRegression

    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    fitted = LogisticRegression(C=recipe.strength, max_iter=5000).fit((rows - mean) / scale, right)
    weights = np.append(fitted.coef_[0], fitted.intercept_[0])
    return LogisticModel(mean, scale, np.asarray(weights, np.float64))


def _fit_trees(rows: Matrix, right: NDArray[np.bool_], recipe: Recipe, seed: int) -> BoostedTrees:
    from sklearn.ensemble import GradientBoostingClassifier

    fitted = GradientBoostingClassifier(
        n_estimators=TREES,
        learning_rate=recipe.strength,
        max_depth=recipe.depth,
        min_samples_leaf=5,
        subsample=0.7,
        max_features="sqrt",
        random_state=seed,
    ).fit(rows, right)
    trees = [estimator.tree_ for estimator in fitted.estimators_[:, 0]]
    shape = (len(trees), max(tree.node_count for tree in trees))
    feature = np.full(shape, -1, np.int32)
    threshold, value = np.zeros(shape), np.zeros(shape)
    children = np.zeros((*shape, 2), np.int32)
    for i, tree in enumerate(trees):
        inner, n = tree.children_left >= 0, tree.node_count
        feature[i, :n] = np.where(inner, tree.feature, -1)
        threshold[i, :n] = np.where(inner, tree.threshold, 0.0)
        children[i, :n, 0] = np.where(inner, tree.children_left, 0)
        children[i, :n, 1] = np.where(inner, tree.children_right, 0)
        value[i, :n] = np.where(inner, 0.0, recipe.strength * tree.value[:, 0, 0])
    share = right.mean()
    return BoostedTrees(feature, threshold, children, value, np.array([np.log(share / (1 - share))]))


def _sigmoid(logits: Matrix) -> Matrix:
    from scipy.special import expit

    return np.asarray(expit(logits), np.float64)
