"""Clusters in words and numbers: terms, exemplars, and whether the cheap tier was wrong on them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cascade.errors import InputError
from clustering.causes import Cause, count_causes
from clustering.cluster import Clustering
from clustering.collect import Escalation, distinct_rows

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
_TERM_CHARACTERS = 2000  # of a text, for its terms
_WORD = re.compile(r"[^\W\d_]{2,}(?:'[^\W\d_]+)?")


@dataclass(frozen=True, slots=True)
class Cluster:
    """One group of like escalations. The three counts sum to `size`."""

    id: int
    size: int
    share: float
    """Of all clustered escalations, noise included; 0..1."""
    terms: tuple[str, ...]
    exemplar_ids: tuple[str, ...]
    """Query ids of the most central members, the medoid first."""
    n_cheap_wrong: int
    n_cheap_right: int
    n_unknown: int
    escalated_cost_usd: float | None
    """Serving cost of its escalations; None when the cost of any of them is unknown."""
    centroid: tuple[float, ...]
    """Mean member vector, length 1."""
    n_distinct: int | None = None
    """Distinct texts among them: ten thousand copies of one text are one. None in records of older runs."""
    causes: dict[str, int] = field(default_factory=dict)
    """Number of escalations by cause (see `clustering.causes`); they sum to `size`. Empty where not looked for."""
    title: str | None = None
    """Name written by the flagship, where asked for."""

    @property
    def name(self) -> str:
        """A short name for people: its title, else from the terms; not an identity."""
        return self.title or " / ".join(self.terms[:3]) or f"cluster {self.id}"


@dataclass(frozen=True, slots=True)
class ExemplarIndex:
    """Exemplars by which new points are assigned to clusters."""

    embeddings: Floats
    """(m, d) rows of length 1."""
    labels: Labels
    """(m,) cluster of each exemplar."""
    max_distance: float
    """Cosine distance beyond which a new point belongs to no cluster."""


def describe_clusters(
    clustering: Clustering,
    embeddings: Floats,
    escalations: Sequence[Escalation],
    n_terms: int = 6,
    n_exemplars: int = 5,
    causes: Sequence[Cause] | None = None,
) -> list[Cluster]:
    """Describe each cluster of n escalations, in order of id; noise is none of them.

    A text that comes many times counts once for terms, exemplars and centroid, so that a flood of one query does not
    speak for its cluster; sizes and costs count every escalation. `causes` (n) are split by cluster where given.
    Terms are by class-based TF-IDF over words and word pairs (Grootendorst 2022, BERTopic): frequency in
    the cluster times log(1 + mean cluster length / frequency overall). Raises InputError when the three
    inputs differ in length.
    """
    n = len(escalations)
    if not len(clustering.labels) == len(embeddings) == n:
        raise InputError(
            f"{len(clustering.labels)} labels and {len(embeddings)} embeddings do not fit {n} escalations; "
            "cluster the same escalations again."
        )
    rows = distinct_rows([e.text for e in escalations])
    first = np.unique(rows)
    terms = _class_terms([escalations[i].text for i in first], clustering.labels[first], n_terms)
    order = np.argsort(clustering.labels, kind="stable")
    bounds = np.searchsorted(clustering.labels[order], np.arange(clustering.n_clusters + 1))
    found = []
    for label in range(clustering.n_clusters):
        members = order[bounds[label] : bounds[label + 1]]
        bare = _describe(label, members, np.unique(rows[members]), embeddings, escalations, n_exemplars)
        split = count_causes(causes[i] for i in members) if causes is not None else {}
        found.append(replace(bare, terms=terms.get(label, ()), causes=split))
    return found


def exemplar_index(
    clustering: Clustering, embeddings: Floats, per_cluster: int = 64, quantile: float = 0.99
) -> ExemplarIndex:
    """Spread exemplars of each cluster, with a reach learnt from the members themselves.

    `max_distance` is the `quantile` of the cosine distances from members that are no exemplars to the
    nearest exemplar of their own cluster (from exemplar to exemplar, when all members are exemplars).
    """
    chosen, reaches = [], []
    for label in range(clustering.n_clusters):
        members = np.flatnonzero(clustering.labels == label)
        order = members[farthest_first(embeddings[members], per_cluster)]
        rest = np.setdiff1d(members, order)
        similarity = embeddings[rest if len(rest) else order] @ embeddings[order].T
        if not len(rest):
            np.fill_diagonal(similarity, -1.0)
        if similarity.size > 1:
            reaches.append(1 - similarity.max(axis=1))
        chosen.append(order)
    picked = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
    reach = float(np.quantile(np.concatenate(reaches), quantile)) if reaches else 0.0
    return ExemplarIndex(embeddings[picked], clustering.labels[picked], max(reach, 1e-6))


def assign_to_clusters(embeddings: Floats, index: ExemplarIndex, max_distance: float | None = None) -> Labels:
    """Cluster of the nearest exemplar for each of (n, d) points; -1 beyond `max_distance` (cosine).

    Labels are stored and new points go to their nearest exemplar because hdbscan's approximate_predict
    can disagree with its own fit.
    """
    labels = np.full(len(embeddings), -1, np.int64)
    if not len(index.labels):
        return labels
    limit = index.max_distance if max_distance is None else max_distance
    for start in range(0, len(embeddings), 4096):
        similarity = np.asarray(embeddings[start : start + 4096], np.float32) @ index.embeddings.T
        nearest = similarity.argmax(axis=1)
        near = 1 - similarity.max(axis=1) <= limit + 1e-6
        labels[start : start + len(nearest)] = np.where(near, index.labels[nearest], -1)
    return labels


def farthest_first(points: Floats, n: int, max_cosine: float = 2.0) -> list[int]:
    """Row numbers of up to n diverse points: the medoid, then always the point farthest from those chosen.

    Gonzalez (1985), a 2-approximation of the k-center problem. Stops where the next point is nearer than
    `max_cosine` (cosine similarity) to a chosen one: all that remain are near-duplicates. Memory O(n).
    """
    if not len(points) or n <= 0:
        return []
    order = [int(np.argmax(points @ points.mean(axis=0)))]
    nearest = points @ points[order[0]]
    while len(order) < min(n, len(points)):
        nearest[order[-1]] = np.inf  # never again
        candidate = int(np.argmin(nearest))
        if nearest[candidate] > max_cosine:
            break
        order.append(candidate)
        nearest = np.maximum(nearest, points @ points[candidate])
    return order


def _describe(
    label: int,
    members: Labels,
    distinct: Labels,
    embeddings: Floats,
    escalations: Sequence[Escalation],
    n_exemplars: int,
) -> Cluster:
    mean = embeddings[distinct].mean(axis=0)
    centroid = mean / max(float(np.linalg.norm(mean)), 1e-12)
    central = distinct[np.argsort(-(embeddings[distinct] @ centroid), kind="stable")[:n_exemplars]]
    own = [escalations[i] for i in members]
    costs = [e.cost_usd for e in own]
    known = [cost for cost in costs if cost is not None]
    return Cluster(
        id=label,
        size=len(own),
        share=len(own) / len(escalations),
        terms=(),
        exemplar_ids=tuple(escalations[i].id for i in central),
        n_cheap_wrong=sum(e.cheap_correct is False for e in own),
        n_cheap_right=sum(e.cheap_correct is True for e in own),
        n_unknown=sum(e.cheap_correct is None for e in own),
        escalated_cost_usd=sum(known) if len(known) == len(costs) else None,
        centroid=tuple(float(x) for x in centroid),
        n_distinct=len(distinct),
    )


def _class_terms(texts: Sequence[str], labels: Labels, n_terms: int) -> dict[int, tuple[str, ...]]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

    def words(text: str) -> list[str]:
        kept = [w for w in _WORD.findall(text.lower()) if w not in ENGLISH_STOP_WORDS]
        return kept + [f"{a} {b}" for a, b in pairwise(kept)]

    clusters = sorted({int(label) for label in labels if label >= 0})
    place = {label: row for row, label in enumerate(clusters)}
    documents: list[list[str]] = [[] for _ in clusters]
    for text, label in zip(texts, labels, strict=True):
        if label >= 0:
            documents[place[int(label)]].append(text[:_TERM_CHARACTERS])
    tokens = [[word for text in document for word in words(text)] for document in documents]
    if not any(tokens):
        return {}
    counter = CountVectorizer(analyzer=lambda document: document)
    counts = counter.fit_transform(tokens).tocsr().astype(np.float64)
    lengths = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    rarity = np.log(1 + lengths.mean() / np.asarray(counts.sum(axis=0)).ravel())
    vocabulary = counter.get_feature_names_out()
    terms = {}
    for row, cluster in enumerate(clusters):  # row by row: clusters x vocabulary would not fit at a million texts
        own = counts.getrow(row)
        order = np.argsort(own.indices)
        columns = own.indices[order]
        weights = own.data[order] / lengths[row] * rarity[columns]
        terms[cluster] = _best_terms(weights, vocabulary[columns], n_terms)
    return terms


def _best_terms(weights: NDArray[np.float64], vocabulary: Sequence[str], n_terms: int) -> tuple[str, ...]:
    """Heaviest terms, leaving out a word that an already taken pair holds and the other way round."""
    best: list[str] = []
    for i in np.argsort(-weights, kind="stable"):
        if weights[i] <= 0 or len(best) == n_terms:
            break
        parts = set(str(vocabulary[i]).split())
        if not any(parts <= set(b.split()) or set(b.split()) <= parts for b in best):
            best.append(str(vocabulary[i]))
    return tuple(best)
