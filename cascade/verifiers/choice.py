"""Which kind of classifier tells right from wrong best: by cross-validated log-loss over folds of queries' texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cascade.trace import Query
from cascade.verifiers.bank import text_digest
from cascade.verifiers.models import KINDS, RECIPES, Kind, Model, Recipe, constant_model, fit_model, mean_odds
from cascade.verifiers.score import TooLittleData

MIN_OF_A_KIND = 10
"""Right and wrong answers that must be there to learn from."""


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


def fixed_folds(queries: Sequence[Query], n_folds: int, seed: int) -> NDArray[np.int64]:
    """(n,) fold of each query, by its text alone: the same whenever and among whatever queries it comes."""
    return np.array([int(text_digest(f"{seed}:{q.text}"), 16) % n_folds for q in queries], dtype=np.int64)


def text_folds(queries: Sequence[Query], n_folds: int, seed: int) -> NDArray[np.int64]:
    """(n,) fold of each query, of even sizes; equal texts share one, or a model would be tried on what it has seen."""
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


def fit_by_fold(
    choice: Choice,
    rows: NDArray[np.float64],
    correct: np.ndarray,
    folds: NDArray[np.int64],
    n_folds: int,
    seed: int,
) -> tuple[NDArray[np.int64], tuple[Model, ...]]:
    """(columns used, one model of the chosen kind per fold, of all rows outside it): those that made
    `choice.predicted`."""
    columns = np.flatnonzero(choice.columns)
    models = [_fit_outside(rows[:, columns], correct, folds == fold, choice.recipe, seed) for fold in range(n_folds)]
    return columns, tuple(models)


def _loss(trial: _Trial) -> float:
    return trial[0]


def _best_of_each(tried: Sequence[_Trial]) -> dict[Kind, float]:
    return {kind: min(loss for loss, recipe, _, _ in tried if recipe.kind == kind) for kind in KINDS}


def cross_predict(
    rows: NDArray[np.float64], correct: np.ndarray, folds: NDArray[np.int64], recipe: Recipe, seed: int
) -> NDArray[np.float64]:
    """(n,) P(right) of each row by a model of the rows of the other folds."""
    predicted = np.empty(len(rows))
    for fold in np.unique(folds):
        held = folds == fold
        predicted[held] = _fit_outside(rows, correct, held, recipe, seed).predict(rows[held])
    return predicted


def _fit_outside(
    rows: NDArray[np.float64], correct: np.ndarray, held: NDArray[np.bool_], recipe: Recipe, seed: int
) -> Model:
    """A model of the rows that are not held out; where those are all right or all wrong, the share of right ones."""
    if correct[~held].all() or not correct[~held].any():
        return constant_model(float(correct.mean()), rows.shape[1])
    return fit_model(rows[~held], correct[~held], recipe, seed)


def _log_loss(predicted: NDArray[np.float64], correct: np.ndarray) -> float:
    clipped = np.clip(predicted, 1e-6, 1 - 1e-6)
    return float(-np.mean(np.where(correct, np.log(clipped), np.log1p(-clipped))))
