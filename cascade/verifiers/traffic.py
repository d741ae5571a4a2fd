"""What the cheap tier itself answers to the queries around one: free, and telling where it is out of its depth.

On ground that it knows, neighbouring queries get few different answers, and sure ones; where it does not, its answers
scatter. No flagship answer is needed to see that, nor to see that an answer is what its neighbours get. (Semantic
entropy, Farquhar et al. 2024, Nature 630:625, looks at samples for one query; here neighbours take their place.)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cascade.errors import InputError
from cascade.trace import Answer, Query
from cascade.verifiers.bank import AnswerBank, AnswerForm, Embed, Fields, Neighbourhood, answer_fields

TRAFFIC_NAMES = ("logprob", "answer_entropy", "agreement", "sure_agreement")


@dataclass(frozen=True, eq=False)
class TrafficAnswers:
    """One version's answers to n queries of the traffic, none of them graded."""

    bank: AnswerBank
    logprobs: NDArray[np.float64]
    """(n,) mean log-probability (nats) of each answer's tokens."""
    form: AnswerForm = "json"
    fields: tuple[Fields, ...] = field(init=False)

    def __post_init__(self) -> None:
        if len(self.bank) != len(self.logprobs):
            raise InputError(f"{len(self.bank)} answers of the traffic and {len(self.logprobs)} log-probabilities")
        object.__setattr__(self, "fields", tuple(answer_fields(text, self.form) for text in self.bank.answers))

    def __len__(self) -> int:
        return len(self.bank)

    @classmethod
    def build(
        cls, queries: Sequence[Query], answers: Sequence[Answer], embed: Embed, most: int, form: AnswerForm = "json"
    ) -> TrafficAnswers:
        """At most `most` of these queries, evenly, of those whose answer carries token confidence."""
        rated = [
            (query, answer.text, answer.confidence.mean_logprob)
            for query, answer in zip(queries, answers, strict=True)
            if answer.confidence is not None and answer.text.strip()
        ]
        first = list({query.id: (query, text, value) for query, text, value in reversed(rated)}.values())[::-1]
        places = np.unique(np.linspace(0, len(first) - 1, min(len(first), most)).astype(np.int64)).tolist()
        kept = [first[i] for i in places]
        bank = AnswerBank.build([query for query, _, _ in kept], [text for _, text, _ in kept], embed)
        return cls(bank, np.array([value for _, _, value in kept], np.float64), form)

    def without(self, ids: Collection[str]) -> TrafficAnswers:
        """The answers to other queries."""
        kept = np.array([query_id not in ids for query_id in self.bank.ids], bool)
        return TrafficAnswers(self.bank.without(ids), self.logprobs[kept], self.form)

    @cached_property
    def _sureness(self) -> NDArray[np.float64]:
        """(n,) rank of each answer's log-probability, 0..1."""
        return (np.argsort(np.argsort(self.logprobs, kind="stable"), kind="stable") + 0.5) / max(1, len(self))

    def features(
        self, queries: Sequence[Query], embeddings: NDArray[np.float32], answers: Sequence[Fields], k: int
    ) -> NDArray[np.float64]:
        """(n, len(TRAFFIC_NAMES)) of the k nearest: mean log-probability, entropy (nats) of their answers, and the
        share of them with this very answer, by similarity and by sureness."""
        around = Neighbourhood.around(self.bank, self.fields, queries, embeddings, k)
        there = around.places >= 0
        sure = np.where(there, self._sureness[around.places], 0.0)
        same = np.array(
            [
                [place >= 0 and self.fields[place] == answer for place in row]
                for row, answer in zip(around.places.tolist(), answers, strict=True)
            ],
            np.float64,
        ).reshape(around.places.shape)
        n = np.maximum(there.sum(axis=1), 1)
        return np.column_stack(
            [
                np.where(there, self.logprobs[around.places], 0.0).sum(axis=1) / n,
                around.answer_entropy(),
                (same * around.weights).sum(axis=1),
                (same * sure).sum(axis=1) / np.maximum(sure.sum(axis=1), 1e-9),
            ]
        )
