"""Why each query escalated: what a team does about a cluster depends on it.

    cheap wrong         the cheap answer disagrees with the flagship's          distil it
    right but rejected  the cheap answer agrees, and was turned away all the same   recalibrate, buy nothing
    flagship doubtful   the flagship answers near-identical queries differently  do not train on it
    out of scope        the flagship's own answer is a refusal, or the route's answer for "not mine"   keep escalating
    unknown             no usable flagship answer

The first that holds counts, in the order: unknown, out of scope, flagship doubtful, right but rejected, cheap wrong.

Two queries are near-identical when their embeddings are close, most of their words are the same, and none of the words
in which they differ occurs in either answer: "cancel order 17" and "cancel order 18" rightly get different answers,
since 17 and 18 are in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cascade.grade import GradeKind, grade
from cascade.trace import Answer
from cascade.verifiers import RulesConfig, rule_reasons
from clustering.collect import Escalation

Floats = NDArray[np.float32]
_TOKEN = re.compile(r"\w+")
_BLOCK = 1024
_GROUP = 20_000


class Cause(StrEnum):
    """Why a query escalated; see the module's table."""

    CHEAP_WRONG = "cheap wrong"
    RIGHT_REJECTED = "right but rejected"
    FLAGSHIP_DOUBTFUL = "flagship doubtful"
    OUT_OF_SCOPE = "out of scope"
    UNKNOWN = "unknown"


class CausesConfig(BaseModel):
    """What counts as doubt and as out of scope."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out_of_scope_answers: tuple[str, ...] = ()
    """Flagship answers (whole, case and outer white space aside) that mean "not a matter of this route". Refusals by
    the verifier's own markers count in any case."""
    doubt_cosine: float = Field(default=0.9, gt=0, le=1)
    """Cosine from which on two queries can be near-identical."""
    doubt_overlap: float = Field(default=0.7, gt=0, le=1)
    """Share of all their words that two near-identical queries have in common."""
    doubt_neighbours: int = Field(default=5, ge=1)
    """Nearest queries that are looked at."""


def find_causes(
    escalations: Sequence[Escalation],
    embeddings: Floats,
    labels: NDArray[np.int64],
    grade_kind: GradeKind,
    config: CausesConfig | None = None,
    rules: RulesConfig | None = None,
    right_at: float = 1.0,
) -> list[Cause]:
    """The cause of each of n escalations, with their (n, d) unit vectors and (n,) clusters.

    Near-identical queries are looked for inside a cluster, and in clusters of more than 20,000 queries among the
    20,000 next to each other in time, so that time grows with n and not with its square.
    """
    config, rules = config or CausesConfig(), rules or RulesConfig()
    outside = [_out_of_scope(e, config, rules) for e in escalations]
    judged = np.array([_usable(e.flagship) and not out for e, out in zip(escalations, outside, strict=True)], bool)
    doubtful = np.zeros(len(escalations), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero((labels == label) & judged)
        for start in range(0, len(rows), _GROUP):
            part = rows[start : start + _GROUP]
            kept = [escalations[i] for i in part]
            doubtful[part] = _doubtful(kept, embeddings[part], grade_kind, right_at, config)
    return [_cause(e, out, bool(doubt)) for e, out, doubt in zip(escalations, outside, doubtful, strict=True)]


def count_causes(causes: Iterable[Cause]) -> dict[str, int]:
    """Number of each cause, zeros included, in the order of `Cause`."""
    found = list(causes)
    return {str(cause): found.count(cause) for cause in Cause}


def _usable(answer: Answer | None) -> bool:
    return answer is not None and bool(answer.text.strip()) and answer.finish_reason != "length"


def _cause(escalation: Escalation, outside: bool, doubtful: bool) -> Cause:
    if not _usable(escalation.flagship) or escalation.cheap_correct is None:
        return Cause.UNKNOWN
    if outside:
        return Cause.OUT_OF_SCOPE
    if doubtful:
        return Cause.FLAGSHIP_DOUBTFUL
    return Cause.RIGHT_REJECTED if escalation.cheap_correct else Cause.CHEAP_WRONG


def _out_of_scope(escalation: Escalation, config: CausesConfig, rules: RulesConfig) -> bool:
    answer = escalation.flagship
    if answer is None:
        return False
    if answer.text.strip().casefold() in {known.strip().casefold() for known in config.out_of_scope_answers}:
        return True
    return any(reason.startswith("refusal") for reason in rule_reasons(escalation.query, answer, rules))


def _doubtful(
    escalations: Sequence[Escalation], vectors: Floats, grade_kind: GradeKind, right_at: float, config: CausesConfig
) -> NDArray[np.bool_]:
    """(n,) True where most of a query's near-identical neighbours got another answer than it did."""
    words = [_words(e.text) for e in escalations]
    answers = [e.flagship.text if e.flagship else "" for e in escalations]
    said = [_words(answer) for answer in answers]
    result = np.zeros(len(escalations), bool)
    for row, near in _neighbours(vectors, config):
        votes = [
            max(grade(answers[row], answers[other], grade_kind), grade(answers[other], answers[row], grade_kind))
            for other in near
            if len(words[row] & words[other]) >= config.doubt_overlap * len(words[row] | words[other])
            and not (words[row] ^ words[other]) & (said[row] | said[other])
        ]
        result[row] = sum(vote < right_at for vote in votes) * 2 > len(votes)
    return result


def _neighbours(vectors: Floats, config: CausesConfig) -> Iterable[tuple[int, list[int]]]:
    """Each row with the others that are close to it, nearest first."""
    k = min(config.doubt_neighbours + 1, len(vectors))
    for start in range(0, len(vectors), _BLOCK):
        similarity = vectors[start : start + _BLOCK] @ vectors.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        for offset, columns in enumerate(nearest):
            row, cosines = start + offset, similarity[offset]
            ordered = sorted((int(c) for c in columns if c != row), key=lambda c: -cosines[c])
            yield row, [c for c in ordered[: config.doubt_neighbours] if cosines[c] >= config.doubt_cosine]


def _words(text: str) -> frozenset[str]:
    return frozenset(_TOKEN.findall(text.casefold().replace("_", " ")))
