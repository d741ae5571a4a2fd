"""Answers bought for some escalations, passed on to their neighbours where the neighbours' answers agree.

Label propagation over nearest neighbours (Zhu and Ghahramani 2002, "Learning from Labeled and Unlabeled Data with Label
Propagation", in its one-step form): free training examples, as good as the clusters are pure. Answers that copy
something from their query differ from neighbour to neighbour, so they find no agreement and nothing is passed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cascade.errors import InputError

Floats = NDArray[np.float32]
_BLOCK = 4096  # queries compared with all answered ones at a time


class PropagateConfig(BaseModel):
    """When an answer is passed on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    neighbours: int = Field(default=10, ge=1)
    """Answered queries that vote on one that is not."""
    min_share: float = Field(default=0.8, gt=0.5, le=1)
    """Least share of the votes, weighted by nearness, that one answer needs."""
    sharpness: float = Field(default=10.0, ge=0)
    """A neighbour's vote is exp(sharpness x cosine)."""


@dataclass(frozen=True, slots=True)
class Propagated:
    """An answer passed on to one query."""

    row: int
    """Of the unanswered queries."""
    answer: str
    share: float
    """Of the votes, 0..1."""


def propagate_answers(
    answered: Floats, answers: Sequence[str], unanswered: Floats, config: PropagateConfig
) -> list[Propagated]:
    """For each of m unanswered queries, (m, d) unit vectors, the answer on which enough of its nearest among n answered
    ones, (n, d), agree; those without agreement are left out. Equal means equal as text, white space aside. Raises
    InputError when `answers` are not n.
    """
    if len(answered) != len(answers):
        raise InputError(f"{len(answered)} answered queries and {len(answers)} answers: give one for each")
    if not len(answers) or not len(unanswered):
        return []
    texts = [" ".join(answer.split()) for answer in answers]
    names = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    kinds = np.array([names[text] for text in texts], np.int64)
    original = {number: answers[texts.index(text)] for text, number in names.items()}
    found = []
    for start in range(0, len(unanswered), _BLOCK):
        block = unanswered[start : start + _BLOCK]
        for row, (kind, share) in enumerate(zip(*_vote(block @ answered.T, kinds, config), strict=True), start):
            if share >= config.min_share:
                found.append(Propagated(row, original[int(kind)], float(share)))
    return found


def _vote(
    cosines: Floats, kinds: NDArray[np.int64], config: PropagateConfig
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(kind, share of the votes) of the winner for each row."""
    k = min(config.neighbours, cosines.shape[1])
    nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    weights = np.exp(config.sharpness * (np.take_along_axis(cosines, nearest, axis=1).astype(np.float64) - 1))
    votes = np.zeros((len(cosines), int(kinds.max()) + 1))
    np.add.at(votes, (np.arange(len(cosines))[:, None], kinds[nearest]), weights)
    winner = votes.argmax(axis=1)
    return winner, votes[np.arange(len(votes)), winner] / votes.sum(axis=1)
