"""Arms of an experiment over several seeds: savings, and how many times one arm saves what another does.

All arms are taken together, so that what they have in common cancels. Where every seed has held-out queries of its own,
a seed is one observation, which holds the luck of its queries: each is left out in turn, and the interval is a t of
seeds - 1 degrees of freedom around the jackknife's error (Efron and Tibshirani 1993, An Introduction to the Bootstrap,
chapter 11). Where the seeds share their queries, seeds and queries are resampled apart (the pigeonhole bootstrap; Owen
2007, Annals of Applied Statistics 1:386), and since a resample of few seeds varies too little the percentile levels are
widened from normal to that t (Hesterberg 2015, The American Statistician 69:371). A single seed leaves the queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

from cascade.errors import InputError
from evaluation.intervals import FloatArray, Interval, checked_confidence


@dataclass(frozen=True, slots=True)
class SeedOutcome:
    """One arm with one seed, on the n held-out queries of that seed; each array has shape (n,)."""

    before: FloatArray
    """What the champion's cascade cost (USD) or did (0 or 1), per query."""
    after: FloatArray
    """The same of the arm's."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over queries and seeds of every arm, in k variations of the experiment; each array has shape (k,)."""

    before: dict[str, FloatArray]
    after: dict[str, FloatArray]
    n: FloatArray
    """Queries."""


Statistic = Callable[[Sums], FloatArray]


@dataclass(frozen=True, slots=True)
class Experiment:
    """What was measured, and how it varies."""

    whole: Sums
    """As it was: one variation."""
    varied: Sums
    """Each seed left out, or resamples."""
    jackknife: bool
    tail: float
    n_seeds: int

    def interval(self, statistic: Statistic) -> Interval:
        """A figure with its interval."""
        value, drawn, n = float(statistic(self.whole)[0]), statistic(self.varied), int(self.whole.n[0])
        if self.jackknife:
            error = math.sqrt((self.n_seeds - 1) / self.n_seeds * float(((drawn - drawn.mean()) ** 2).sum()))
            half = -float(stdtrit(self.n_seeds - 1, self.tail)) * error
            return Interval(value, value - half, value + half, n, "jackknife over seeds")
        low = self.tail
        if self.n_seeds > 1:
            widened = stdtrit(self.n_seeds - 1, self.tail) * math.sqrt(self.n_seeds / (self.n_seeds - 1))
            low = float(ndtr(widened))
        ends = np.quantile(drawn, (low, 1 - low))
        return Interval(
            value, min(value, float(ends[0])), max(value, float(ends[1])), n, "bootstrap of seeds and queries"
        )


def measure(
    arms: Mapping[str, Sequence[SeedOutcome]],
    confidence: float = 0.9,
    *,
    shared_queries: bool,
    resamples: int = 4000,
    seed: int = 0,
) -> Experiment:
    """All arms of an experiment. Seed k of every arm must have the same queries; `shared_queries` says that all seeds
    have the same, in the same order. Raises InputError when lengths differ.
    """
    tail = (1 - checked_confidence(confidence)) / 2
    sizes = {tuple(len(outcome.after) for outcome in outcomes) for outcomes in arms.values()}
    if len(sizes) != 1:
        raise InputError(f"the arms have {sorted(sizes)} held-out queries per seed: give all the same seeds")
    lengths = np.array(sizes.pop(), np.float64)
    if shared_queries and len(set(lengths.tolist())) > 1:
        raise InputError(f"the seeds have {sorted(set(lengths.tolist()))} held-out queries: they do not share them")
    n_seeds = len(lengths)
    whole = _sums(arms, np.ones((1, n_seeds)), lengths)
    if n_seeds > 1 and not shared_queries:
        return Experiment(whole, _sums(arms, 1 - np.eye(n_seeds), lengths), True, tail, n_seeds)
    rng = np.random.default_rng(seed)
    counts = np.ones((resamples, 1))
    if n_seeds > 1:
        counts = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), resamples).astype(np.float64)
    queries = rng.multinomial(int(lengths[0]), np.full(int(lengths[0]), 1 / lengths[0]), resamples).astype(np.float64)
    return Experiment(whole, _sums(arms, counts, lengths, queries), False, tail, n_seeds)


def saving(found: Experiment, arm: str) -> Interval:
    """Relative saving of an arm over its champion: 1 - sum(after) / sum(before). Raises InputError when the champion's
    cascade cost nothing."""
    return found.interval(lambda sums: _cut(sums, arm))


def gain(found: Experiment, arm: str) -> Interval:
    """Mean of after - before per query, as of grades."""
    return found.interval(lambda sums: (sums.after[arm] - sums.before[arm]) / sums.n)


def difference(found: Experiment, arm: str, other: str) -> Interval:
    """How much more one arm saves than another, in shares of the champion's cost."""
    return found.interval(lambda sums: _cut(sums, arm) - _cut(sums, other))


def times_as_much(found: Experiment, arm: str, other: str) -> Interval | None:
    """How many times one arm saves what another saves; None where the other's saving is not told apart from zero, as
    the ratio then has no meaning."""
    if saving(found, other).low <= 0 or bool((_cut(found.varied, other) <= 0).any() and found.jackknife):
        return None

    def ratio(sums: Sums) -> FloatArray:
        below = _cut(sums, other)
        return np.where(below > 0, _cut(sums, arm) / np.where(below > 0, below, 1.0), np.inf)

    return found.interval(ratio)


def _sums(
    arms: Mapping[str, Sequence[SeedOutcome]],
    counts: FloatArray,
    lengths: FloatArray,
    queries: FloatArray | None = None,
) -> Sums:
    """Sums with seed s counted `counts[:, s]` times, and query i of each seed `queries[:, i]` times."""

    def total(columns: Sequence[FloatArray]) -> FloatArray:
        if queries is None:
            return np.asarray(counts @ np.array([column.sum() for column in columns]), np.float64)
        return np.asarray((queries @ np.stack(columns, axis=1) * counts).sum(axis=1), np.float64)

    return Sums(
        before={name: total([outcome.before for outcome in outcomes]) for name, outcomes in arms.items()},
        after={name: total([outcome.after for outcome in outcomes]) for name, outcomes in arms.items()},
        n=counts @ lengths,
    )


def _cut(sums: Sums, arm: str) -> FloatArray:
    before = sums.before[arm]
    if not (before > 0).all():
        raise InputError("the champion's cascade cost nothing on these queries: there is nothing to save")
    return 1 - sums.after[arm] / before
