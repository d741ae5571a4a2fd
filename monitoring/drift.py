"""Whether this week's queries are of the reference's kind, from their embeddings alone: no answer is needed.

Two questions. Can a classifier tell this week's queries from the reference's (a classifier two-sample test, Lopez-Paz
and Oquab 2017)? And are there dense groups of queries where the reference had none?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from cascade.calibration import auroc
from evaluation.intervals import clopper_pearson
from monitoring.policy import MonitorPolicy
from monitoring.records import Check, Name
from monitoring.tally import Tally
from monitoring.weekly import Estimate, check_weeks

Matrix = NDArray[np.float32]
Embed = Callable[[list[str]], Matrix]
FOLDS = 5
OWN = 0.99
"""Share of the reference's own queries that lie within its radius of their nearest neighbour."""


Areas = dict[tuple[str, ...], Estimate]
"""AUCs of samples that were looked at before, by their queries' ids."""


def check_drift(
    weeks: Mapping[date, Tally],
    reference: Sequence[str],
    embed: Embed,
    policy: MonitorPolicy,
    areas: Areas | None = None,
) -> tuple[Check, Check]:
    """AUC of the classifier, and share of queries in new groups. `embed` gives (n, d) unit rows.

    `areas` may be given again at the next look at the same reference: weeks that are over need no second fit.
    """
    known = {} if areas is None else areas
    base = embed(list(reference)) if reference else np.zeros((0, 0), np.float32)
    radius = own_radius(base) if len(base) >= policy.min_queries else 0.0

    def enough(span: Tally) -> bool:
        return min(len(span.texts), len(base)) >= policy.min_queries

    def auc(span: Tally) -> Estimate | None:
        if not enough(span):
            return None
        key = tuple(span.texts)
        if key not in known:
            known[key] = tell_apart(embed(list(span.texts.values())), base, policy.confidence)
        return known[key]

    def share(span: Tally) -> Estimate | None:
        if not enough(span):
            return None
        new = in_new_groups(embed(list(span.texts.values())), base, radius, policy.new_group)
        found = clopper_pearson(int(new.sum()), len(new), policy.confidence)
        return Estimate(found.value, found.low, found.high, len(new))

    little = f"fewer than {policy.min_queries} queries in the newest weeks or in the reference"
    return (
        check_weeks(
            Name.DRIFT, weeks, auc, policy, bar=policy.drift_auc, baseline=0.5, too_little=little,
            say=lambda e: f"a classifier tells its queries from the reference's with AUC {e.value:.3f} (0.5: not at "
            f"all): at least {max(0.0, 2 * e.low - 1):.0%} of them are of another kind",
        ),
        check_weeks(
            Name.NEW, weeks, share, policy, bar=policy.new_share, baseline=0.0, too_little=little,
            say=lambda e: f"{e.value:.1%} of {e.n:,} sampled queries lie in dense groups that the reference lacks",
        ),
    )  # fmt: skip


def tell_apart(new: Matrix, base: Matrix, confidence: float) -> Estimate:
    """Cross-fitted AUC of a regularised logistic regression on two samples of embeddings, (n, d) and (m, d).

    Every query is scored by a fit that has not seen it. Interval: Hanley and McNeil 1982, mean over the folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x = StandardScaler().fit_transform(np.concatenate([base, new]).astype(np.float64))
    y = np.concatenate([np.zeros(len(base), np.int64), np.ones(len(new), np.int64)])
    fold = np.random.default_rng(0).permutation(len(y)) % FOLDS
    areas, weights = [], []
    for held in range(FOLDS):
        test = fold == held
        model = LogisticRegression(C=1.0, max_iter=200).fit(x[~test], y[~test])
        area = auroc(model.decision_function(x[test]).tolist(), (y[test] == 1).tolist())
        assert area is not None  # both samples are in every fold
        areas.append(area)
        weights.append(int(test.sum()))
    mean = float(np.average(areas, weights=weights))
    half = float(ndtri((1 + confidence) / 2)) * auc_error(mean, len(new), len(base))
    return Estimate(mean, mean - half, min(1.0, mean + half), len(new))


def auc_error(area: float, n: int, m: int) -> float:
    """Standard error of an AUC over n and m cases (Hanley and McNeil 1982, equation 1)."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    return math.sqrt((area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)) / (n * m))


def own_radius(base: Matrix) -> float:
    """Cosine distance to the nearest other query within which `OWN` of the sample's own queries lie."""
    return float(np.quantile(1 - _nearest(base, base, own=True), OWN))


def in_new_groups(new: Matrix, base: Matrix, radius: float, least: int) -> NDArray[np.bool_]:
    """(n,) whether a query is farther than `radius` from all of `base`, in a group of at least `least` such queries.

    A group is held together by steps of at most `radius` (single linkage), so odd queries that have nothing in common
    do not make one.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    marked = np.zeros(len(new), dtype=bool)
    places = np.flatnonzero(1 - _nearest(new, base) > radius)
    if len(places) >= least:
        near = csr_matrix(1 - new[places] @ new[places].T <= radius)
        _, group = connected_components(near, directed=False)
        marked[places[np.bincount(group)[group] >= least]] = True
    return marked


def _nearest(rows: Matrix, among: Matrix, own: bool = False) -> NDArray[np.float32]:
    """(n,) greatest cosine of each row with another row of `among`, in blocks."""
    found = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), 1024):
        cosines = rows[start : start + 1024] @ among.T
        if own:
            cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -1.0
        found[start : start + 1024] = cosines.max(axis=1)
    return found
