"""Flagship-answered queries, and what the nearest of them say of a cheap answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cascade.errors import InputError
from cascade.grade import parse_json
from cascade.trace import Query

Embed = Callable[[list[str]], NDArray[np.float32]]
"""Texts to rows of length 1: (n, d) float32."""
AnswerForm = Literal["json", "final_number", "final_choice"]
Fields = Mapping[str, str]
_CHUNK = 1024  # queries compared with the whole bank at a time


def answer_fields(text: str, form: AnswerForm = "json") -> dict[str, str]:
    """An answer as comparable fields.

    - "json": value by path of each leaf; where the text is no JSON object or list, the text itself under "".
    - "final_number": the last number of the text ("... so she has 18." -> 18), commas and currency signs dropped.
    - "final_choice": the last option letter that stands alone, as of a multiple-choice answer.

    A text without a number or letter counts as a whole, in lower case with white space made single.
    """
    whole = {"": " ".join(text.lower().split())}
    if form == "final_number":
        numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
        return {"": f"{float(numbers[-1].replace(',', '')):g}"} if numbers else whole
    if form == "final_choice":
        letters = re.findall(r"\b([A-J])\b", text)
        return {"": letters[-1]} if letters else whole
    parsed, value = parse_json(text)
    return dict(_leaves(value, "")) if parsed and isinstance(value, dict | list) and value else whole


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


def text_digest(text: str) -> str:
    """Key under which two equal query texts are the same."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class AnswerBank:
    """Queries that the flagship (or the traffic's own reference) has answered.

    A query is never its own neighbour: entries of the same id or of exactly the same text are passed over, when a
    verifier learns as when it serves, so that what it learns from looks like what it will see.
    """

    ids: tuple[str, ...]
    digests: tuple[str, ...]
    """`text_digest` of each query."""
    embeddings: NDArray[np.float32]
    """(n, d), rows of length 1."""
    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        sizes = {len(self.ids), len(self.digests), len(self.embeddings), len(self.answers)}
        if len(sizes) > 1 or self.embeddings.ndim != 2:
            raise InputError(f"an answer bank's parts differ in length ({sorted(sizes)}): give one row per query")

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def build(cls, queries: Sequence[Query], answers: Sequence[str], embed: Embed) -> AnswerBank:
        """A bank of these queries; of equal ids the first counts."""
        first = {query.id: (query, answer) for query, answer in reversed(list(zip(queries, answers, strict=True)))}
        rows = list(reversed(first.values()))
        texts = [query.text for query, _ in rows]
        return cls(
            ids=tuple(query.id for query, _ in rows),
            digests=tuple(text_digest(text) for text in texts),
            embeddings=np.asarray(embed(texts), np.float32) if rows else np.zeros((0, 0), np.float32),
            answers=tuple(answer for _, answer in rows),
        )

    def merge(self, other: AnswerBank) -> AnswerBank:
        """Both banks' entries; of equal ids this one's counts."""
        if not len(self) or not len(other):
            return self if len(self) else other
        known = set(self.ids)
        new = [i for i, query_id in enumerate(other.ids) if query_id not in known]
        return AnswerBank(
            ids=self.ids + tuple(other.ids[i] for i in new),
            digests=self.digests + tuple(other.digests[i] for i in new),
            embeddings=np.concatenate([self.embeddings, other.embeddings[new]]),
            answers=self.answers + tuple(other.answers[i] for i in new),
        )

    def without(self, ids: Collection[str]) -> AnswerBank:
        """The entries of other queries."""
        gone = set(ids)
        kept = [i for i, query_id in enumerate(self.ids) if query_id not in gone]
        return AnswerBank(
            ids=tuple(self.ids[i] for i in kept),
            digests=tuple(self.digests[i] for i in kept),
            embeddings=self.embeddings[kept],
            answers=tuple(self.answers[i] for i in kept),
        )

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """Entries by id and by digest."""
        places: dict[str, list[int]] = defaultdict(list)
        for i, keys in enumerate(zip(self.ids, self.digests, strict=True)):
            for key in keys:
                places[key].append(i)
        return places

    def nearest(
        self, queries: Sequence[Query], embeddings: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(places, cosine similarities), each (n, k'), nearest first, k' = min(k, entries); an entry that is the query
        itself, or that is missing, has place -1 and similarity 0."""
        k = min(k, len(self))
        found = [
            self._nearest_chunk(queries[start : start + _CHUNK], embeddings[start : start + _CHUNK], k)
            for start in range(0, len(queries), _CHUNK)
        ]
        if not found:
            return np.zeros((0, k), np.int64), np.zeros((0, k))
        return np.concatenate([places for places, _ in found]), np.concatenate([near for _, near in found])

    def _nearest_chunk(
        self, queries: Sequence[Query], embeddings: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        similarity = np.asarray(embeddings @ self.embeddings.T, np.float64)
        for row, query in enumerate(queries):
            own = self._places.get(query.id, []) + self._places.get(text_digest(query.text), [])
            similarity[row, own] = -np.inf
        # A stable order, so that equal similarities cannot differ between two runs.
        top = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        order = np.lexsort((top, -np.take_along_axis(similarity, top, axis=1)), axis=1)
        places = np.take_along_axis(top, order, axis=1).astype(np.int64)
        near = np.take_along_axis(similarity, places, axis=1)
        gone = ~np.isfinite(near)
        return np.where(gone, -1, places), np.where(gone, 0.0, near)


QUERY_NAMES = ("nearest", "density", "answer_entropy", "kind_entropy")
"""What the neighbourhood of a query says before anybody has answered it."""
ANSWER_NAMES = ("agreement", "top_agreement", "plurality_agrees", "field_agreement", "kind_agreement")
"""How a cheap answer agrees with the neighbours' answers."""


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """The k nearest flagship-answered queries of each query, with their answers."""

    places: NDArray[np.int64]
    similarity: NDArray[np.float64]
    fields: tuple[Fields, ...]
    """Answers of the whole bank, as fields."""

    @classmethod
    def around(
        cls,
        bank: AnswerBank,
        fields: tuple[Fields, ...],
        queries: Sequence[Query],
        embeddings: NDArray[np.float32],
        k: int,
    ) -> Neighbourhood:
        return cls(*bank.nearest(queries, embeddings, k), fields)

    def _row(self, i: int) -> list[tuple[Fields, float]]:
        """(answer, weight) of the neighbours of query i; weights sum to 1."""
        there = self.places[i] >= 0
        found = zip(self.places[i][there], self.weights[i][there], strict=True)
        return [(self.fields[p], float(w)) for p, w in found]

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """(n, k) share of each neighbour, by similarity; rows sum to 1, a missing neighbour has none."""
        there = self.places >= 0
        found = np.where(there, np.clip(self.similarity, 1e-6, None), 0.0)
        return np.asarray(found / np.maximum(found.sum(axis=1, keepdims=True), 1e-12), np.float64)

    def answer_entropy(self) -> NDArray[np.float64]:
        """(n,) entropy (nats, by weight) of the neighbours' answers."""
        rows = (self._row(i) for i in range(len(self.places)))
        return np.array([_entropy([(_key(fields), weight) for fields, weight in row]) for row in rows], np.float64)

    def query_features(self) -> NDArray[np.float64]:
        """(n, len(QUERY_NAMES)): similarity of the nearest, mean similarity, and the entropy (nats, by weight) of the
        neighbours' answers and of their kinds (which fields they have)."""
        rows = []
        for i, entropy in enumerate(self.answer_entropy().tolist()):
            near = self.similarity[i][self.places[i] >= 0]
            rows.append(
                (
                    float(near[0]) if len(near) else 0.0,
                    float(near.mean()) if len(near) else 0.0,
                    entropy,
                    _entropy([(_kind(fields), weight) for fields, weight in self._row(i)]),
                )
            )
        return np.array(rows, dtype=np.float64).reshape(-1, len(QUERY_NAMES))

    def answer_features(self, answers: Sequence[Fields]) -> NDArray[np.float64]:
        """(n, len(ANSWER_NAMES)), each 0..1 and weighted by similarity: share of neighbours with the same answer, the
        nearest one's, whether the answer is the neighbours' most common, the mean share of the answer's fields found
        with the same value, and of its field names found (Jaccard)."""
        rows = [self._agreement(i, answer) for i, answer in enumerate(answers)]
        return np.array(rows, dtype=np.float64).reshape(-1, len(ANSWER_NAMES))

    def _agreement(self, i: int, answer: Fields) -> tuple[float, ...]:
        neighbours = self._row(i)
        if not neighbours:
            return (0.0,) * len(ANSWER_NAMES)
        key, kind = _key(answer), set(answer)
        votes: dict[str, float] = defaultdict(float)
        for fields, weight in neighbours:
            votes[_key(fields)] += weight
        same_fields = [sum(fields.get(name) == value for name, value in answer.items()) for fields, _ in neighbours]
        return (
            votes.get(key, 0.0),
            float(_key(neighbours[0][0]) == key),
            float(votes.get(key, 0.0) >= max(votes.values())),
            sum(n / len(answer) * weight for n, (_, weight) in zip(same_fields, neighbours, strict=True)),
            sum(len(kind & set(fields)) / len(kind | set(fields)) * weight for fields, weight in neighbours),
        )


def _key(fields: Fields) -> str:
    return json.dumps(sorted(fields.items()))


def _kind(fields: Fields) -> str:
    return json.dumps(sorted(fields))


def _entropy(votes: Sequence[tuple[str, float]]) -> float:
    total: dict[str, float] = defaultdict(float)
    for key, weight in votes:
        total[key] += weight
    shares = np.array([share for share in total.values() if share > 0])
    return float(-(shares * np.log(shares)).sum()) if len(shares) else 0.0
