"""What a learned verifier sees of a query and its cheap answer: blocks of features that can be left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cascade.confidence import SIGNALS, confidence_features
from cascade.trace import Answer, Query
from cascade.verifiers.answer_text import FORM_NAMES, TEXT_NAMES, query_features, text_features
from cascade.verifiers.bank import (
    ANSWER_NAMES,
    QUERY_NAMES,
    AnswerBank,
    AnswerForm,
    Embed,
    Fields,
    Neighbourhood,
    answer_fields,
)
from cascade.verifiers.traffic import TRAFFIC_NAMES, TrafficAnswers

Block = Literal["confidence", "query", "form", "answer", "text", "neighbours", "neighbourhood", "traffic", "peers"]
Matrix = NDArray[np.float64]
_FIELD_NAMES = ("characters", "query_characters", "n_fields", "grounded", "least_grounded")


@dataclass(frozen=True, eq=False)
class Features:
    """A fitted feature space: queries and answers to rows of numbers.

    The blocks: "confidence" (`cascade.confidence` signals), "query" (the query's embedding, by its main components),
    "form" (the query's length, numbers, lines), "answer" (lengths, number of fields, how much of the answer's values
    stands in the query), "text" (steps, stated calculations, use of the query's numbers, form of the final answer),
    "neighbours" (agreement with the nearest flagship-answered queries), "traffic" (agreement with the cheap tier's own
    answers to the nearest queries of the traffic, how sure and how scattered they are), and "peers" (the share of other
    models that come to the same answer; they are asked, and paid, for every answer). "neighbourhood" is the part of
    "neighbours" that can be told before there is an answer.
    """

    signals: tuple[str, ...]
    axes: Matrix | None
    """(d, c) principal axes of the query embeddings."""
    centre: Matrix | None
    """(d,) mean embedding."""
    with_answer: bool
    bank: AnswerBank | None
    bank_fields: tuple[Fields, ...]
    votes: bool
    """Whether the answer is compared with the bank's."""
    neighbours: int
    form: AnswerForm
    left_out: dict[str, str]
    """Blocks (and signals) that the data do not carry, with the reason."""
    with_form: bool = False
    with_text: bool = False
    with_peers: bool = False
    traffic: TrafficAnswers | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each column, prefixed by its block."""
        axes = 0 if self.axes is None else self.axes.shape[1]
        return (
            *(f"confidence.{name}" for name in self.signals),
            *(f"query.{i}" for i in range(axes)),
            *(f"form.{name}" for name in (FORM_NAMES if self.with_form else ())),
            *(f"answer.{name}" for name in (_FIELD_NAMES if self.with_answer else ())),
            *(f"text.{name}" for name in (TEXT_NAMES if self.with_text else ())),
            *(f"neighbours.{name}" for name in (QUERY_NAMES if self.bank is not None else ())),
            *(f"neighbours.{name}" for name in (ANSWER_NAMES if self.bank is not None and self.votes else ())),
            *(f"traffic.{name}" for name in (TRAFFIC_NAMES if self.traffic is not None else ())),
            *(("peers.agreement",) if self.with_peers else ()),
        )

    def rows(
        self,
        queries: Sequence[Query],
        answers: Sequence[Answer] | None,
        embed: Embed | None,
        peers: Matrix | None = None,
    ) -> Matrix:
        """(n, len(names)); NaN where an answer lacks a confidence signal. Without answers only where no block looks at
        them; `peers`: (n,) agreement, for the block of that name."""
        if not queries:
            return np.zeros((0, len(self.names)))
        parts = []
        fields = [] if answers is None else [answer_fields(answer.text, self.form) for answer in answers]
        needs_embedding = self.axes is not None or self.bank is not None or self.traffic is not None
        vectors = embed([query.text for query in queries]) if needs_embedding and embed is not None else None
        if self.signals and answers is not None:
            parts.append(_confidence(answers, self.signals))
        if self.axes is not None and self.centre is not None and vectors is not None:
            parts.append((np.asarray(vectors, np.float64) - self.centre) @ self.axes)
        if self.with_form:
            parts.append(np.array([list(query_features(query).values()) for query in queries]))
        if self.with_answer and answers is not None:
            parts.append(_answer_block(queries, answers, fields))
        if self.with_text and answers is not None:
            pairs = zip(queries, answers, strict=True)
            parts.append(np.array([list(text_features(query, answer).values()) for query, answer in pairs]))
        if self.bank is not None and vectors is not None:
            around = Neighbourhood.around(self.bank, self.bank_fields, queries, vectors, self.neighbours)
            parts += (
                [around.query_features(), around.answer_features(fields)] if self.votes else [around.query_features()]
            )
        if self.traffic is not None and vectors is not None:
            parts.append(self.traffic.features(queries, vectors, fields, self.neighbours))
        if self.with_peers and peers is not None:
            parts.append(peers[:, None])
        return np.concatenate(parts, axis=1)


def fit_features(
    queries: Sequence[Query],
    answers: Sequence[Answer] | None,
    blocks: Sequence[Block],
    *,
    embed: Embed | None,
    bank: AnswerBank | None,
    neighbours: int,
    dimensions: int,
    form: AnswerForm,
    traffic: TrafficAnswers | None = None,
    peers: bool = False,
) -> Features:
    """The feature space that these queries and answers can fill; a block without data is left out with its reason.
    `peers`: whether there are any to ask."""
    left_out: dict[str, str] = {}
    signals: tuple[str, ...] = ()
    if "confidence" in blocks and answers is not None:
        signals = _carried_signals(answers, left_out)
    centre = axes = None
    if "query" in blocks:
        if embed is None:
            left_out["query"] = "no embedder"
        else:
            centre, axes = _main_axes(np.asarray(embed([query.text for query in queries]), np.float64), dimensions)
            if axes is None:
                left_out["query"] = f"{len(queries)} answers are too few for it"
    near = "neighbours" in blocks or "neighbourhood" in blocks
    if near:
        if embed is None:
            left_out["neighbours"] = "no embedder"
        elif bank is None or len(bank) < 2:
            left_out["neighbours"] = "no flagship-answered queries to compare with"
    if "traffic" in blocks and (answers is None or traffic is None or len(traffic) < 2):
        left_out["traffic"] = "no cheap answers to the traffic around to compare with"
    if "peers" in blocks and not peers:
        left_out["peers"] = "no peers to ask"
    use_bank = bank if near and "neighbours" not in left_out else None
    return Features(
        signals=signals,
        axes=axes,
        centre=centre,
        with_answer="answer" in blocks,
        bank=use_bank,
        bank_fields=() if use_bank is None else tuple(answer_fields(text, form) for text in use_bank.answers),
        votes="neighbours" in blocks,
        neighbours=neighbours,
        form=form,
        left_out=left_out,
        with_form="form" in blocks,
        with_text="text" in blocks,
        with_peers="peers" in blocks and peers,
        traffic=traffic if "traffic" in blocks and "traffic" not in left_out else None,
    )


def _carried_signals(answers: Sequence[Answer], left_out: dict[str, str]) -> tuple[str, ...]:
    """Signals that nine in ten answers carry; the others would leave too much unjudged."""
    carried = [confidence_features(answer) for answer in answers]
    signals = tuple(s for s in SIGNALS if sum(s in row for row in carried) >= 0.9 * max(1, len(carried)))
    if not signals:
        left_out["confidence"] = "the answers carry no log-probabilities"
    elif len(signals) < len(SIGNALS):
        left_out["confidence." + ", ".join(s for s in SIGNALS if s not in signals)] = "too few answers carry it"
    return signals


def _main_axes(vectors: Matrix, dimensions: int) -> tuple[Matrix | None, Matrix | None]:
    """Mean and main axes; one axis per 20 rows at most, so that a small sample cannot drown in columns."""
    count = min(dimensions, vectors.shape[1], len(vectors) // 20)
    if count < 1:
        return None, None
    centre = vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(vectors - centre, full_matrices=False)
    return centre, np.ascontiguousarray(axes[:count].T)


def _confidence(answers: Sequence[Answer], signals: Sequence[str]) -> Matrix:
    rows = [[confidence_features(answer).get(name, np.nan) for name in signals] for answer in answers]
    return np.array(rows, dtype=np.float64).reshape(len(answers), len(signals))


def _answer_block(queries: Sequence[Query], answers: Sequence[Answer], fields: Sequence[Fields]) -> Matrix:
    rows = []
    for query, answer, found in zip(queries, answers, fields, strict=True):
        words, text = set(query.text.lower().split()), query.text.lower()
        shares = [_grounded(value.lower(), words, text) for value in found.values()]
        rows.append(
            (
                float(np.log1p(len(answer.text))),
                float(np.log1p(len(query.text))),
                float(len(found)),
                float(np.mean(shares)),
                float(min(shares)),
            )
        )
    return np.array(rows, dtype=np.float64).reshape(-1, len(_FIELD_NAMES))


def _grounded(value: str, words: set[str], text: str) -> float:
    """1 where the value stands in the query as it is, else the share of its words that do."""
    if value and value in text:
        return 1.0
    parts = value.split()
    return sum(part in words for part in parts) / len(parts) if parts else 0.0
