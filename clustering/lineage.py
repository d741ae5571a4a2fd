"""Clusters that keep their names from week to week: which of today's is which of the earlier ones.

Cluster numbers of two runs have nothing to do with each other. A new cluster is the continuation of an earlier one
when they share queries (the windows overlap, or the same texts are asked again) or lie at the same place in the
embedding space. Both similarities are weighed into one, and the pairs are chosen together, not greedily, by the
assignment that maximises their sum (Kuhn 1955; MONIC, Spiliopoulou et al. 2006, matches by shared members likewise).

States, as seen by one run:

    new          no earlier cluster is like it
    persisting   it is an earlier cluster that had not been solved
    regressed    it is an earlier cluster that had been solved and escalates again
    solved       an earlier cluster whose queries still come and are mostly accepted now
    vanished     an earlier cluster whose queries no longer come

An earlier cluster that no cluster continues is judged by the window's whole traffic: queries as near its centroid as
its members were are counted, and of those the ones that still escalate. Few queries: it has vanished. Most of them
accepted: it is solved. Most of them escalating: it persists without a cluster of its own, in another one or as noise.
A vanished cluster keeps what it was: one that was solved, vanished and comes back escalating has regressed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cascade.errors import InputError
from clustering.collect import levelled

Floats = NDArray[np.float32]
SKETCH = 1024


class ClusterState(StrEnum):
    """What became of a cluster; see the module's table."""

    NEW = "new"
    PERSISTING = "persisting"
    REGRESSED = "regressed"
    SOLVED = "solved"
    VANISHED = "vanished"


class LineageConfig(BaseModel):
    """When two clusters of different runs are the same one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_similarity: float = Field(default=0.5, gt=0, le=1)
    """Smallest similarity (see `similarity`) of a match."""
    min_cosine: float = Field(default=0.8, ge=-1, lt=1)
    """Cosine of two centroids that counts as similarity 0; 1 counts as 1."""
    min_traffic: int = Field(default=5, ge=1)
    """Fewer queries near an earlier cluster than this, and it has vanished rather than been solved."""


@dataclass(frozen=True, slots=True)
class Known:
    """An earlier cluster, as the history remembers it from the last run that saw it escalate."""

    uid: str
    """"c-0001", "c-0002", ...: its identity for good."""
    name: str
    """What people last called it."""
    state: ClusterState
    """In the newest run before."""
    solved: bool
    """Was it solved when its queries last came?"""
    members: frozenset[str]
    """Sketch of its texts (see `member_sketch`)."""
    centroid: Floats
    """(d,) of length 1."""
    reach: float
    """Cosine to the centroid that nineteen in twenty of its members exceed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A cluster of this run."""

    id: int
    """Its number in this run."""
    members: frozenset[str]
    centroid: Floats
    reach: float


@dataclass(frozen=True, slots=True)
class Fate:
    """One cluster's state in this run."""

    uid: str
    state: ClusterState
    cluster: int | None
    """Its number in this run; None when it does not escalate."""
    similarity: float | None
    """To the earlier cluster that it continues; None for a new one, and for one that is gone."""
    why: str


def match_clusters(
    now: Sequence[Seen],
    known: Sequence[Known],
    traffic: Floats,
    escalated: NDArray[np.bool_],
    next_number: int,
    config: LineageConfig | None = None,
) -> list[Fate]:
    """The fate of every cluster of this run, in order, and then of every earlier one that does not come again.

    `traffic` (t, d) holds the unit vectors of all queries of the window, `escalated` (t,) which of them went to the
    flagship. New clusters are named from `next_number` on. Raises InputError when embeddings of two models meet.
    """
    config = config or LineageConfig()
    sizes = (
        {len(c.centroid) for c in now}
        | {len(c.centroid) for c in known}
        | ({traffic.shape[1]} if len(traffic) else set())
    )
    if len(sizes) > 1:
        raise InputError(
            f"embeddings of {sorted(sizes)} dimensions meet: clusters of two embedders cannot be compared;"
            " embed both with the same model"
        )
    pairs = _assign(now, known, config)
    fates = []
    for place, cluster in enumerate(now):
        found = pairs.get(place)
        if found is None:
            fates.append(Fate(f"c-{next_number:04d}", ClusterState.NEW, cluster.id, None, "like no earlier cluster"))
            next_number += 1
            continue
        earlier, likeness = known[found[0]], found[1]
        state = ClusterState.REGRESSED if earlier.solved else ClusterState.PERSISTING
        why = f"similarity {likeness:.2f} to the earlier cluster, which was {earlier.state}"
        fates.append(Fate(earlier.uid, state, cluster.id, likeness, why))
    continued = {row for row, _ in pairs.values()}
    gone = [earlier for row, earlier in enumerate(known) if row not in continued]
    return fates + [_gone(earlier, traffic, escalated, config) for earlier in gone]


def similarity(one: Seen | Known, other: Seen | Known, config: LineageConfig) -> float:
    """How alike two clusters are, 0..1: the larger of shared members and nearness of centroids.

    Members: Jaccard's index of their texts, counted double up to 1, since windows of two runs seldom overlap by more
    than half. Centroids: the cosine, stretched so that `min_cosine` is 0. The larger one, because either is proof
    enough: windows without a common query say nothing by their members, and a cluster that moved keeps its members.
    """
    shared = min(1.0, 2 * jaccard(one.members, other.members))
    cosine = float(one.centroid @ other.centroid)
    near = (cosine - config.min_cosine) / (1 - config.min_cosine)
    return max(shared, near, 0.0)


def member_sketch(texts: Iterable[str]) -> frozenset[str]:
    """The 1,024 smallest digests of the texts (case and white space aside): enough to estimate Jaccard's index to a
    few hundredths for clusters of any size (bottom-k sketch, Cohen and Kaplan 2007), exact for smaller ones."""
    digests = {hashlib.sha256(levelled(t).encode("utf-8", "replace")).hexdigest()[:16] for t in texts}
    return frozenset(sorted(digests)[:SKETCH])


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Estimated |A n B| / |A u B| of two sketches, 0..1; 0 where both are empty."""
    union = sorted(one | other)[:SKETCH]
    return sum(digest in one and digest in other for digest in union) / len(union) if union else 0.0


def _assign(now: Sequence[Seen], known: Sequence[Known], config: LineageConfig) -> dict[int, tuple[int, float]]:
    """Row of `known` and similarity, by row of `now`."""
    if not now or not known:
        return {}
    from scipy.optimize import linear_sum_assignment

    table = np.array([[similarity(cluster, earlier, config) for earlier in known] for cluster in now])
    # A pair below the minimum is worth nothing, so that it never costs a good pair its partner.
    table[table < config.min_similarity] = 0.0
    rows, columns = linear_sum_assignment(table, maximize=True)
    return {int(r): (int(c), float(table[r, c])) for r, c in zip(rows, columns, strict=True) if table[r, c] > 0}


def _gone(earlier: Known, traffic: Floats, escalated: NDArray[np.bool_], config: LineageConfig) -> Fate:
    near = traffic @ earlier.centroid >= earlier.reach if len(traffic) else np.zeros(0, bool)
    n, n_escalated = int(near.sum()), int(escalated[near].sum())
    if n < config.min_traffic:
        why = f"{n} queries of its kind in the window's traffic, fewer than {config.min_traffic}"
        return Fate(earlier.uid, ClusterState.VANISHED, None, None, why)
    why = f"of {n} queries of its kind in the window's traffic {n_escalated} escalated"
    if 2 * n_escalated > n:
        return Fate(earlier.uid, ClusterState.PERSISTING, None, None, f"{why}, in other clusters or as noise")
    return Fate(earlier.uid, ClusterState.SOLVED, None, None, why)


def member_reach(vectors: Floats, centroid: Floats, share: float = 0.95) -> float:
    """Cosine to the centroid that `share` of the (m, d) members reach."""
    return float(np.quantile(vectors @ centroid, 1 - share))
