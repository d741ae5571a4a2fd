"""Rankings of recorded queries by what the flagship would add, told from the query alone.

They differ from `cascade.router` in what they learn: it routes by P(the cheap answer is accepted), these by the
flagship's expected gain, which needs graded answers of both models on the same queries. The features and models are the
learned verifier's; the recipe is fixed, because so few queries tell the models apart that a choice would follow noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cascade.trace import Query
from cascade.verifiers import Embed
from cascade.verifiers.answer_text import query_features
from cascade.verifiers.choice import MIN_OF_A_KIND, cross_predict, text_folds
from cascade.verifiers.features import fit_features
from cascade.verifiers.models import Recipe, fit_model, mean_odds

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
FOLDS = 5
DIMENSIONS = 256
"""Main components of the query's embedding at most; one per 20 queries to learn from."""
LINE = Recipe("logistic", 0.03)
"""Over the query's form and embedding; its log-odds are averaged with those of the trees."""
TREES = Recipe("trees", 0.12, 2)
"""Over the form alone."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was told of the rows that choose a threshold (by models that have not seen them) and of the test rows."""

    choose: Floats
    test: Floats


@dataclass(frozen=True, slots=True)
class QueryTable:
    """Queries as rows of features, made by a space that was fitted on some of them; what learns, learns on those."""

    rows: Floats
    form: Floats
    """The query's form alone, which holds its length."""
    folds: NDArray[np.int64]
    """Of the fit rows."""
    fit: Rows
    test: Rows
    choose: Rows | None
    """None: the fit rows choose as well, by cross-fitted predictions."""
    seed: int

    @classmethod
    def build(
        cls,
        queries: tuple[Query, ...],
        fit: Rows,
        test: Rows,
        choose: Rows | None,
        *,
        embed: Embed | None,
        seed: int,
    ) -> QueryTable:
        """`embed`: None leaves the queries' form alone."""
        learnt = [queries[i] for i in fit]
        space = fit_features(
            learnt, None, ("query", "form"), embed=embed, bank=None, neighbours=1, dimensions=DIMENSIONS, form="json"
        )
        form = np.array([list(query_features(query).values()) for query in queries])
        rows = space.rows(queries, None, embed)
        return cls(rows, form, text_folds(learnt, FOLDS, seed), fit, test, choose, seed)

    def chance(self, happens: NDArray[np.bool_]) -> Predicted:
        """P(something happens), told from the query; its share among the fit rows where they are too few to learn from.

        `happens`: (n,) over all queries.
        """
        seen = happens[self.fit]
        n_choose = len(self.fit if self.choose is None else self.choose)
        if min(int(seen.sum()), int((~seen).sum())) < MIN_OF_A_KIND:
            share = float(seen.mean())
            return Predicted(np.full(n_choose, share), np.full(len(self.test), share))
        chosen, tested = [], []
        for recipe, rows in ((LINE, self.rows), (TREES, self.form)):
            model = fit_model(rows[self.fit], seen, recipe, self.seed)
            tested.append(model.predict(rows[self.test]))
            if self.choose is None:
                chosen.append(cross_predict(rows[self.fit], seen, self.folds, recipe, self.seed))
            else:
                chosen.append(model.predict(rows[self.choose]))
        return Predicted(mean_odds(chosen), mean_odds(tested))

    def usd(self, usd: Floats) -> Predicted:
        """Expected USD of an answer from the query's form (its length, above all). `usd`: (n,) over all queries."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        form, logs = self.form[self.fit], np.log(np.maximum(usd[self.fit], 1e-12))

        def trees(learnt: NDArray[np.bool_]) -> HistGradientBoostingRegressor:
            return HistGradientBoostingRegressor(max_depth=3, max_iter=60, random_state=self.seed).fit(
                form[learnt], logs[learnt]
            )

        whole = trees(np.ones(len(form), dtype=bool))
        test = np.exp(whole.predict(self.form[self.test]))
        if self.choose is not None:
            return Predicted(np.exp(whole.predict(self.form[self.choose])), test)
        chosen = np.empty(len(form))
        for fold in np.unique(self.folds):
            held = self.folds == fold
            chosen[held] = np.exp(trees(~held).predict(form[held]))
        return Predicted(chosen, test)
