"""Which escalations to buy answers for: where an answer is expected to save most, and no two alike."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cascade.errors import InputError
from clustering.collect import Escalation, distinct_rows
from clustering.describe import Cluster, farthest_first

Floats = NDArray[np.float32]
NOISE = -1
KNOWN_AROUND = "the cheap tier knows what is around it"


class TargetConfig(BaseModel):
    """How many answers to buy, and how they are spread."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_answers: int = Field(ge=1)
    per_user_cap: int | None = Field(default=None, ge=1)
    noise_share_cap: float = Field(default=0.1, ge=0, le=1)
    """Largest share of the answers that unclustered escalations may take."""
    near_duplicate_cosine: float = Field(default=0.97, gt=0, le=1)
    answers_to_teach: float = Field(default=30.0, gt=0)
    """n0: after this many answers a cluster has given 63 % of what it can."""
    neighbours: int = Field(default=20, ge=1)
    """Queries of the traffic around an escalation that say how teachable it is (`clustering.teachable`)."""
    min_teachable: float = Field(default=0.5, ge=0, le=1)
    """Least mean P(wrong) of those around an escalation for an answer to be bought; 0 buys anywhere."""
    include_cheap_right: bool = False
    """Whether escalations that the cheap tier had answered rightly may be bought. They call for
    recalibration, not for teaching."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Chosen query ids, best buy first."""

    query_ids: tuple[str, ...]
    per_cluster: dict[int, int]
    """Answers per cluster id; -1 is the noise tail."""
    dropped: dict[str, int]
    """Escalations that were not chosen, by reason."""


@dataclass(slots=True)
class _Pool:
    """What is still to be had of one cluster, in the order in which it would be bought."""

    label: int
    rows: list[int]
    worth: float
    concave: float
    limit: int
    taken: int = 0
    next_row: int = 0

    def gain(self) -> float:
        return self.worth * (math.exp(-self.taken / self.concave) - math.exp(-(self.taken + 1) / self.concave))


def select_targeted(
    escalations: Sequence[Escalation],
    labels: NDArray[np.int64],
    clusters: Sequence[Cluster],
    embeddings: Floats,
    config: TargetConfig,
    *,
    seed: int = 0,
    teachable: NDArray[np.float64] | None = None,
) -> Selection:
    """Choose up to `config.n_answers` of n escalations.

    After m answers a cluster is expected to save V (1 - exp(-m / n0)), with V = escalated traffic x share
    of it that the cheap tier got wrong x cost of an escalation. `teachable` (n,), where given, counts each
    escalation by its share (`clustering.teachable`), and leaves out those below `config.min_teachable`. These curves
    are concave and independent, so buying where the next answer gains most is optimal
    (marginal analysis: Fox 1966, Operations Research 14(2)). Inside a cluster buys go farthest first from
    the medoid, stop at near-duplicates, and respect the cap per user. A noise point has no neighbours to
    teach: an answer saves about itself, and all of them share a capped tail. Fewer ids than n_answers
    come back when nothing else is worth buying. Raises InputError when the inputs differ in length.
    """
    if not len(escalations) == len(labels) == len(embeddings):
        raise InputError(
            f"{len(escalations)} escalations, {len(labels)} labels and {len(embeddings)} embeddings "
            "differ in number; cluster the same escalations again."
        )
    if teachable is not None and len(teachable) != len(escalations):
        raise InputError(f"{len(teachable)} teachable shares for {len(escalations)} escalations: give one for each.")
    right = np.array([e.cheap_correct is True for e in escalations], bool)
    allowed = np.ones(len(escalations), bool) if config.include_cheap_right else ~right
    dropped: Counter[str] = Counter({"cheap answer was right": int((~allowed).sum())})
    shares = np.ones(len(escalations)) if teachable is None else np.asarray(teachable, np.float64)
    known_around = allowed & (shares < config.min_teachable)
    dropped[KNOWN_AROUND] += int(known_around.sum())
    allowed &= ~known_around
    weights = _worth_per_answered(clusters)
    distinct = distinct_rows([e.text for e in escalations])
    pools = []
    for cluster in clusters:
        rows = np.flatnonzero((labels == cluster.id) & allowed)
        order = farthest_first(embeddings[rows], len(rows), config.near_duplicate_cosine)
        dropped["near-duplicate"] += len(rows) - len(order)
        # One answer teaches all copies of a text, so a flood of one query is worth no more than one query.
        traffic = float(shares[np.unique(distinct[labels == cluster.id])].sum())
        worth = traffic * share_wrong(cluster) * weights[cluster.id]
        pools.append(_Pool(cluster.id, rows[order].tolist(), worth, config.answers_to_teach, config.n_answers))
    tail = np.flatnonzero((np.asarray(labels) == NOISE) & allowed)
    copies = distinct_rows([escalations[int(i)].text for i in tail])
    dropped["near-duplicate"] += len(tail) - len(np.unique(copies))
    tail = tail[np.unique(copies)]
    pools.append(_noise_tail(tail, weights[NOISE], config, seed))
    chosen = _buy(pools, escalations, config, dropped)
    per_cluster = {pool.label: pool.taken for pool in pools if pool.taken}
    dropped["worth less than those chosen"] = len(escalations) - len(chosen) - sum(dropped.values())
    reasons = {reason: n for reason, n in sorted(dropped.items()) if n}
    return Selection(tuple(escalations[i].id for i in chosen), per_cluster, reasons)


def share_wrong(cluster: Cluster) -> float:
    """Share of the cluster's escalations that the cheap tier got wrong, of those known (Jeffreys' prior)."""
    return (cluster.n_cheap_wrong + 0.5) / (cluster.n_cheap_wrong + cluster.n_cheap_right + 1)


def _worth_per_answered(clusters: Sequence[Cluster]) -> dict[int, float]:
    """Mean cost of one escalation by cluster id (noise: of all); 1.0 each unless all are known."""
    costs = {c.id: c.escalated_cost_usd for c in clusters}
    if not costs or any(cost is None or cost <= 0 for cost in costs.values()):
        return dict.fromkeys([NOISE, *costs], 1.0)
    means = {c.id: (c.escalated_cost_usd or 0.0) / max(c.size, 1) for c in clusters}
    return means | {NOISE: float(np.mean(list(means.values())))}


def _noise_tail(tail: NDArray[np.int64], weight: float, config: TargetConfig, seed: int) -> _Pool:
    """Noise as one pool whose curve is all but straight: each answer saves one escalation."""
    shuffled = np.random.default_rng(seed).permutation(tail)
    limit = int(config.noise_share_cap * config.n_answers)
    return _Pool(NOISE, shuffled.tolist(), weight * 1e6, 1e6, limit)


def _buy(
    pools: list[_Pool], escalations: Sequence[Escalation], config: TargetConfig, dropped: Counter[str]
) -> list[int]:
    users: Counter[str] = Counter()
    heap = [(-pool.gain(), i) for i, pool in enumerate(pools)]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < config.n_answers:
        gain, i = heapq.heappop(heap)
        pool = pools[i]
        row = _next_row(pool, escalations, users, config.per_user_cap, dropped) if gain < 0 else None
        if row is None:
            continue
        chosen.append(row)
        pool.taken += 1
        heapq.heappush(heap, (-pool.gain(), i))
    return chosen


def _next_row(
    pool: _Pool,
    escalations: Sequence[Escalation],
    users: Counter[str],
    cap: int | None,
    dropped: Counter[str],
) -> int | None:
    while pool.taken < pool.limit and pool.next_row < len(pool.rows):
        row = pool.rows[pool.next_row]
        pool.next_row += 1
        user = escalations[row].user
        if cap is None or user is None or users[user] < cap:
            if user is not None:
                users[user] += 1
            return row
        dropped["user at the cap"] += 1
    return None
