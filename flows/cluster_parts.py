"""Parts of the cluster stage: copies folded and unfolded, names bought, earlier clusters recognised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade.errors import InputError
from cascade.trace import Answer
from clustering.cluster import Clustering, cluster_embeddings
from clustering.collect import Escalation, distinct_rows
from clustering.describe import Cluster
from clustering.embed import model_identity
from clustering.lineage import ClusterState, Fate, Known, Seen, match_clusters, member_reach, member_sketch
from clustering.naming import clean_name, naming_query
from evaluation.report import SolvedCluster
from flows.context import RunContext
from flows.records import load_pool, load_traces
from flows.stage_parts import embed
from promotion.clusters import Sighting

FEWEST = 20  # distinct texts; below it there is nothing to find in common
MOST_TRAFFIC = 20_000  # queries of the window by which a cluster that is gone is judged


def embed_and_cluster(
    ctx: RunContext, escalations: Sequence[Escalation]
) -> tuple[Clustering, NDArray[np.float32], dict[str, Any]]:
    """Clustering and (n, d) embeddings of n escalations. Copies of a text are clustered as one.

    Raises InputError when there are too few distinct texts.
    """
    texts = [e.text for e in escalations]
    first, back = np.unique(distinct_rows(texts), return_inverse=True)
    if len(first) < FEWEST:
        raise InputError(
            f"only {len(first)} distinct texts among the {len(escalations)} escalations in the window, fewer than"
            f" {FEWEST}: there is nothing to learn from yet; wait for more traffic or widen window.days"
        )
    vectors = embed(ctx, [texts[i] for i in first])
    found = cluster_embeddings(vectors, ctx.config.cluster)
    unfolded = replace(found, labels=found.labels[back], adopted=found.adopted[back], coords_2d=found.coords_2d[back])
    copies = np.bincount(back)
    counts = {"distinct_texts": len(first), "most_copies_of_a_text": int(copies.max())}
    return unfolded, vectors[back], counts


def name_clusters(
    ctx: RunContext, clusters: Sequence[Cluster], escalations: Sequence[Escalation]
) -> tuple[list[Cluster], dict[str, Any]]:
    """The clusters with names by the flagship, paid from the run's budget; those it cannot name keep their terms."""
    texts = {e.id: e.text for e in escalations}
    queries = [naming_query(c.id, [texts[i] for i in c.exemplar_ids], ctx.until) for c in clusters]
    purchase = ctx.buyer.buy(queries, "cluster names")
    answers: dict[str, Answer] = purchase.answers
    titles = {q.id: clean_name(answers[q.id].text) for q in queries if q.id in answers}
    named = [replace(c, title=titles.get(q.id)) for c, q in zip(clusters, queries, strict=True)]
    counts = {"names_bought": purchase.n_bought, "names_cost_usd": purchase.cost_usd}
    return named, counts


def recognise(
    ctx: RunContext,
    clusters: Sequence[Cluster],
    labels: NDArray[np.int64],
    embeddings: NDArray[np.float32],
    escalations: Sequence[Escalation],
) -> list[Fate]:
    """Match this run's clusters with those of earlier runs, and write the result into the history."""
    history = ctx.state.clusters
    embedder = model_identity(ctx.config.embed)
    known, number = history.known_before(ctx.run.run_id, ctx.until, embedder)
    seen = [_seen(c, labels == c.id, embeddings, escalations) for c in clusters]
    traffic, escalated = _traffic(ctx) if known else (np.empty((0, 0), np.float32), np.empty(0, bool))
    fates = match_clusters(seen, known, traffic, escalated, number, ctx.config.lineage)
    history.record(ctx.run.run_id, ctx.until, embedder, _sightings(fates, seen, known, clusters))
    return fates


def solved_clusters(ctx: RunContext) -> list[SolvedCluster]:
    """Earlier clusters that are solved as this run sees it, with the held-out queries as near as their members were."""
    solved = [s for s in ctx.state.clusters.sightings(ctx.run.run_id) if s.state is ClusterState.SOLVED]
    if not solved:
        return []
    queries = [trace.query for trace in load_traces(ctx, "heldout")]
    vectors = embed(ctx, [query.text for query in queries])
    found = []
    for sighting in solved:
        near = np.flatnonzero(vectors @ sighting.known.centroid >= sighting.known.reach)
        found.append(SolvedCluster(sighting.uid, sighting.name, tuple(queries[i].id for i in near)))
    return found


def _seen(
    cluster: Cluster, mine: NDArray[np.bool_], embeddings: NDArray[np.float32], escalations: Sequence[Escalation]
) -> Seen:
    rows = np.flatnonzero(mine)
    centroid = np.asarray(cluster.centroid, np.float32)
    return Seen(
        id=cluster.id,
        members=member_sketch(escalations[int(i)].text for i in rows),
        centroid=centroid,
        reach=member_reach(embeddings[rows], centroid),
    )


def _traffic(ctx: RunContext) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Unit vectors of the pool's queries, accepted ones too, and which of them escalated; a sample of very many."""
    traces = [t for t in load_pool(ctx) if t.query.text.strip()]
    if len(traces) > MOST_TRAFFIC:
        rows = np.sort(np.random.default_rng(ctx.seed).choice(len(traces), MOST_TRAFFIC, replace=False))
        traces = [traces[i] for i in rows]
    return embed(ctx, [t.query.text for t in traces]), np.array([t.escalated for t in traces], bool)


def _sightings(
    fates: Sequence[Fate], seen: Sequence[Seen], known: Sequence[Known], clusters: Sequence[Cluster]
) -> list[Sighting]:
    now, before = {s.id: s for s in seen}, {k.uid: k for k in known}
    described = {c.id: c for c in clusters}
    rows = []
    for fate in fates:
        if fate.cluster is None:
            solved = {ClusterState.SOLVED: True, ClusterState.PERSISTING: False}
            old = before[fate.uid]
            remembered = replace(old, state=fate.state, solved=solved.get(fate.state, old.solved))
            rows.append(Sighting(fate.uid, fate.state, None, old.name, 0, 0.0, fate.why, remembered))
            continue
        own, cluster = now[fate.cluster], described[fate.cluster]
        remembered = Known(fate.uid, cluster.name, fate.state, False, own.members, own.centroid, own.reach)
        rows.append(
            Sighting(
                uid=fate.uid,
                state=fate.state,
                cluster=fate.cluster,
                name=cluster.name,
                size=cluster.size,
                cost_usd=cluster.escalated_cost_usd,
                why=fate.why,
                known=remembered,
            )
        )
    return rows
