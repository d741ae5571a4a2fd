"""Scorers one after the other, cheapest first: who may end the matter early, and how that stays one threshold.

Every answer gets one number, its chain score. A scorer before the last may end the matter: below `reject_below` the
answer is never accepted; from `accept_at` on it ranks above all answers that go to a later scorer. The last scorer
ranks the rest. So "accept from t on" is one nested family of accepted sets whatever the number of scorers, and
Learn-then-Test over t bounds the error among all accepted of the whole chain, early ones included. The bounds
themselves are picked on the learning part, before any testing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cascade.trace import Answer, Opinion, Query
from cascade.verifiers.accounts import add_known
from cascade.verifiers.score import Score, Scorer, ScorerLoader, TooLittleData, Trainable

PSEUDO_COUNT = 2.0
"""Answers added as if they had gone the wrong way, where a bound is picked: a few lucky ones prove nothing."""


class ChainConfig(BaseModel):
    """How readily a cheap scorer ends the matter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    early_error: float = Field(default=0.5, gt=0, le=1)
    """Accept early where the error is at most this share of the target."""
    early_right: float = Field(default=0.05, ge=0, lt=1)
    """Reject early where at most this share of the answers is right: a dearer scorer could save few of them."""


@dataclass(frozen=True, slots=True)
class Link:
    """One scorer of a chain with its bounds; the last has none."""

    scorer: Scorer
    accept_at: float | None = None
    reject_below: float | None = None
    p_wrong_below: float | None = None
    """Share of wrong answers below `reject_below`, on the learning part."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        bounds = {"accept_at": self.accept_at, "reject_below": self.reject_below, "p_wrong_below": self.p_wrong_below}
        return {"scorer": self.scorer.to_dict(), **bounds}

    @classmethod
    def from_dict(cls, row: dict[str, Any], load: ScorerLoader) -> Link:
        """Inverse of `to_dict`."""
        return cls(**(row | {"scorer": load(row["scorer"])}))


@dataclass(frozen=True, slots=True)
class ChainScore:
    """What a chain makes of one answer."""

    value: float | None
    """The chain score; None where a scorer could not judge, or where the answer was rejected early."""
    opinions: tuple[Opinion, ...]
    reason: str | None
    """Why there is no value, or what the scorer that ended the matter remarked."""
    p_wrong: float | None = None
    """Set where the answer was rejected early."""


def score_chain(links: Sequence[Link], queries: Sequence[Query], answers: Sequence[Answer]) -> list[ChainScore]:
    """Chain scores in order; each scorer sees, and charges for, only what no earlier one ended."""
    done: dict[int, ChainScore] = {}
    opinions: list[list[Opinion]] = [[] for _ in queries]
    left = list(range(len(queries)))
    for place, link in enumerate(links):
        scores = link.scorer.score([queries[i] for i in left], [answers[i] for i in left]) if left else []
        for i, score in zip(left, scores, strict=True):
            opinions[i].append(Opinion(link.scorer.name, score.value, score.cost_usd, score.latency_s))
            end = _end(link, score, len(links) - 1 - place, len(links))
            if end is not None:
                done[i] = ChainScore(end[0], tuple(opinions[i]), end[1], end[2])
        left = [i for i in left if i not in done]
    return [done[i] for i in range(len(queries))]


def _end(link: Link, score: Score, n_later: int, n_links: int) -> tuple[float | None, str | None, float | None] | None:
    """(chain score, reason, P(wrong)) where this scorer ends the matter."""
    if score.value is None:
        return None, score.reason or f"{link.scorer.name} could not judge", None
    if n_later == 0 or (link.accept_at is not None and score.value >= link.accept_at):
        return chain_value(score.value, n_later, n_links), score.reason, None
    if link.reject_below is not None and score.value < link.reject_below:
        return None, score.reason or f"rejected early: {link.scorer.name}", link.p_wrong_below
    return None


def chain_value(value: float, n_later: int, n_links: int) -> float:
    """A scorer's value on the chain's scale: its own where it is alone, else squashed to (n_later, n_later + 1)."""
    if n_links == 1:
        return value
    return n_later + 0.5 + 0.5 * value / (1.0 + abs(value))


@dataclass(frozen=True, slots=True)
class Graded:
    """Cheap answers with what is right: sequences and arrays of equal length."""

    queries: Sequence[Query]
    answers: Sequence[Answer]
    references: Sequence[str]
    correct: np.ndarray
    """(n,) bool."""
    passes_rules: np.ndarray
    """(n,) bool."""

    def __len__(self) -> int:
        return len(self.queries)

    def pick(self, places: np.ndarray) -> tuple[list[Query], list[Answer]]:
        """Queries and answers at these positions."""
        return [self.queries[i] for i in places.tolist()], [self.answers[i] for i in places.tolist()]


@dataclass(frozen=True, slots=True)
class FittedChain:
    """A chain with its scores of the answers that it was fitted on and of those that will test it."""

    links: tuple[Link, ...]
    values: np.ndarray
    """(n,) chain scores, NaN where the answer can never be accepted; cross-fitted on the learning part."""
    left_out: dict[str, str]
    """Scorers that could judge none of the answers, with the reason."""
    cost_usd: float | None
    """Mean charge per answer, those that broke a rule included; None when any is unknown."""


def fit_chain(
    scorers: Sequence[Scorer | Trainable],
    graded: Graded,
    learn: np.ndarray,
    max_error: float,
    config: ChainConfig,
) -> FittedChain:
    """Train what has to learn and pick the early bounds, both on positions `learn` alone.

    Each scorer is asked only about what reaches it. A scorer that can judge nothing is left out; the chain is empty
    when none is left. Where `learn` is all of them, what has to learn is fitted by fold (`Trainable.fit`).
    """
    asked: list[tuple[Link, np.ndarray, np.ndarray]] = []
    left_out: dict[str, str] = {}
    is_learn = np.zeros(len(graded), dtype=bool)
    is_learn[learn] = True
    reached = np.flatnonzero(graded.passes_rules)
    spent_usd: list[float | None] = []
    for number, part in enumerate(scorers):
        try:
            scorer, scores = _fitted_scores(part, graded, reached, is_learn)
        except TooLittleData as error:
            left_out[part.name] = str(error)
            continue
        spent_usd += [score.cost_usd for score in scores]
        values = np.array([np.nan if score.value is None else score.value for score in scores], dtype=np.float64)
        if not np.isfinite(values).any():
            left_out[scorer.name] = next((score.reason for score in scores if score.reason), "no answer reached it")
            continue
        link = Link(scorer)
        if number < len(scorers) - 1:
            seen = is_learn[reached]
            link = _pick_bounds(scorer, values[seen], graded.correct[reached][seen], max_error, config)
        asked.append((link, reached, values))
        reached = reached[_goes_on(link, values)]
    if asked:
        # The last one that can judge ends the matter, whatever was to come after it.
        asked[-1] = (Link(asked[-1][0].scorer), *asked[-1][1:])
    total = add_known(spent_usd)
    cost_usd = None if total is None else total / max(1, len(graded))
    return FittedChain(tuple(link for link, _, _ in asked), _chain_values(asked, len(graded)), left_out, cost_usd)


def _fitted_scores(
    part: Scorer | Trainable, graded: Graded, reached: np.ndarray, is_learn: np.ndarray
) -> tuple[Scorer, list[Score]]:
    """The scorer, trained where it has to be, and its scores of all positions in `reached`, in order."""
    if not isinstance(part, Trainable):
        return part, part.score(*graded.pick(reached))
    first, second = reached[is_learn[reached]], reached[~is_learn[reached]]
    scorer, learnt = part.fit(
        *graded.pick(first),
        [graded.references[i] for i in first.tolist()],
        graded.correct[first],
        by_fold=bool(is_learn.all()),
    )
    tested = scorer.score(*graded.pick(second))
    by_place = dict(zip([*first.tolist(), *second.tolist()], [*learnt, *tested], strict=True))
    return scorer, [by_place[i] for i in reached.tolist()]


def _pick_bounds(
    scorer: Scorer, values: np.ndarray, correct: np.ndarray, max_error: float, config: ChainConfig
) -> Link:
    """The loosest early bounds that the learning part supports; none where it supports none."""
    known = np.isfinite(values)
    order = np.argsort(-values[known], kind="stable")
    ranked, wrong = values[known][order], ~correct[known][order]
    if not len(ranked):
        return Link(scorer)
    n = np.arange(1, len(ranked) + 1)
    # A cut lies between two different values, or equal ones would fall on both sides of it.
    cut_after = np.append(ranked[1:] < ranked[:-1], True)
    error = (np.cumsum(wrong) + PSEUDO_COUNT) / (n + PSEUDO_COUNT)
    sure = np.flatnonzero(cut_after & (error <= max_error * config.early_error))
    accept_at = float(ranked[sure[-1]]) if len(sure) else None
    right_below = np.append(np.cumsum(~wrong[::-1])[::-1][1:], 0)
    n_below = len(ranked) - n
    share_right = (right_below + PSEUDO_COUNT) / (n_below + PSEUDO_COUNT)
    hopeless = np.flatnonzero(cut_after & (share_right <= config.early_right))
    if not len(hopeless):
        return Link(scorer, accept_at)
    first = hopeless[0]
    reject_below = float(ranked[first])
    if accept_at is not None:
        reject_below = min(reject_below, accept_at)
    below = ranked < reject_below
    return Link(scorer, accept_at, reject_below, float(wrong[below].mean()) if below.any() else None)


def _goes_on(link: Link, values: np.ndarray) -> np.ndarray:
    high = np.inf if link.accept_at is None else link.accept_at
    low = -np.inf if link.reject_below is None else link.reject_below
    inside: np.ndarray = np.isfinite(values) & (values < high) & (values >= low)
    return inside


def _chain_values(asked: Sequence[tuple[Link, np.ndarray, np.ndarray]], n: int) -> np.ndarray:
    result = np.full(n, np.nan)
    for number, (link, reached, values) in enumerate(asked):
        n_later = len(asked) - 1 - number
        ends = np.isfinite(values)
        if n_later:
            ends &= values >= (np.inf if link.accept_at is None else link.accept_at)
        result[reached[ends]] = [chain_value(value, n_later, len(asked)) for value in values[ends].tolist()]
    return result
