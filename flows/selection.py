"""What a run buys answers for: the arm's choice among the pool's queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade.trace import Trace
from clustering.collect import Escalation, distinct_rows, levelled
from clustering.rivals import select_largest_gaps, select_least_sure, select_random
from clustering.target import select_targeted
from clustering.teachable import MOST_TRAFFIC, teachable_shares
from flows.context import RunContext
from flows.records import load_clustering, load_clusters, load_escalations, load_labels, load_pool
from flows.stage_parts import embed


def choose_queries(ctx: RunContext) -> tuple[list[str], dict[str, Any]]:
    """(query ids, best buy first; what the selection's file says of them)."""
    n, choice = ctx.config.target.n_answers, ctx.arm.choose
    pool = load_pool(ctx)
    if choice == "all traffic":
        return list(select_random([t.query.id for t in pool], n, ctx.seed)), {}
    if choice == "least sure":
        return list(select_least_sure({t.query.id: p_wrong(t) for t in pool}, n)), {}
    escalations = load_escalations(ctx)
    if choice == "escalated":
        return list(select_random([e.id for e in escalations], n, ctx.seed)), {}
    if choice == "largest gaps":
        chances = {t.query.id: p_wrong(t) for t in pool}
        wrong = np.array([chances[e.id] for e in escalations])
        vectors = load_clustering(ctx)[1]
        return list(select_largest_gaps([e.id for e in escalations], vectors, wrong, n, ctx.seed)), {}
    return _by_cluster_worth(ctx, escalations, pool)


def _by_cluster_worth(
    ctx: RunContext, escalations: list[Escalation], pool: list[Trace]
) -> tuple[list[str], dict[str, Any]]:
    labels, vectors = load_labels(ctx), load_clustering(ctx)[1]
    shares = _teachable(ctx, escalations, vectors, pool) if ctx.config.target.min_teachable > 0 else None
    selection = select_targeted(
        escalations,
        np.array([labels[e.id] for e in escalations], np.int64),
        load_clusters(ctx),
        vectors,
        ctx.config.target,
        seed=ctx.seed,
        teachable=shares,
    )
    return list(selection.query_ids), {"per_cluster": selection.per_cluster, "dropped": selection.dropped}


def _teachable(
    ctx: RunContext, escalations: Sequence[Escalation], vectors: NDArray[np.float32], pool: Sequence[Trace]
) -> NDArray[np.float64]:
    """(n,) how often the cheap tier is expected to be wrong around each escalation; copies of a text are one query."""
    texts = [trace.query.text for trace in pool]
    firsts = np.unique(distinct_rows(texts))
    kept = firsts[np.unique(np.linspace(0, len(firsts) - 1, min(len(firsts), MOST_TRAFFIC)).astype(np.int64))]
    traffic = [pool[i] for i in kept.tolist()]
    place = {levelled(trace.query.text): row for row, trace in enumerate(traffic)}
    own = np.array([place.get(levelled(e.text), -1) for e in escalations], np.int64)
    around = embed(ctx, [trace.query.text for trace in traffic])
    return teachable_shares(vectors, own, around, np.array([p_wrong(t) for t in traffic]), ctx.config.target.neighbours)


def p_wrong(trace: Trace) -> float:
    """The verifier's P(wrong) of a cheap answer; where it gave none, its verdict."""
    chance = trace.verdict.p_wrong
    return float(not trace.verdict.accepted) if chance is None else chance
