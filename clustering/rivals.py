"""Other ways to choose what to buy answers for: the arms that targeting is compared with."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

TOP_CLUSTERS = 5
_PER_CLUSTER = 60  # queries to a k-means cluster, about


def select_random(ids: Sequence[str], n: int, seed: int) -> tuple[str, ...]:
    """n of the ids without replacement (all when fewer), the same for the same set of ids and seed."""
    unique = sorted(set(ids))
    return tuple(random.Random(seed).sample(unique, min(n, len(unique))))


def select_least_sure(p_wrong: Mapping[str, float], n: int) -> tuple[str, ...]:
    """The n queries of all traffic on whose answers the verifier is least decided: P(wrong) nearest to 1/2.

    Margin sampling (Scheffer, Decomain and Wrobel 2001) for the two outcomes right and wrong.
    """
    return tuple(sorted(p_wrong, key=lambda i: (abs(p_wrong[i] - 0.5), i))[:n])


def select_largest_gaps(
    ids: Sequence[str], embeddings: NDArray[np.float32], p_wrong: NDArray[np.float64], n: int, seed: int
) -> tuple[str, ...]:
    """RouteNLP's choice among n escalations: k-means, clusters ranked by size x quality gap, random in the top five.

    The gap is the cluster's mean P(wrong). Where five clusters hold fewer than n, the next ones in rank follow one by
    one. About 60 queries to a cluster; the paper's k is for router states, which a cascade without a router lacks.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    k = max(2, min(len(ids) // 2, round(len(ids) / _PER_CLUSTER)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct texts than clusters is no harm
        labels = KMeans(k, n_init=3, random_state=seed).fit_predict(np.asarray(embeddings, np.float64))
    worth = np.bincount(labels, weights=p_wrong, minlength=k)  # size x mean
    rank = np.argsort(-worth, kind="stable")
    rng = random.Random(seed)
    chosen: list[str] = []
    for group in [rank[:TOP_CLUSTERS], *np.split(rank[TOP_CLUSTERS:], max(1, k - TOP_CLUSTERS))]:
        members = sorted(ids[i] for i in np.flatnonzero(np.isin(labels, group)).tolist())
        chosen += rng.sample(members, min(n - len(chosen), len(members)))
    return tuple(chosen)
