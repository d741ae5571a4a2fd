"""Arms of an experiment over several seeds: savings, and how many times one arm saves what another does.

All arms are resampled together, so that what they have in common cancels. Where every seed has held-out queries of its
own, whole seeds are resampled: their spread already holds that of their queries (Davison and Hinkley 1997, Bootstrap
Methods and their Application, section 3.8). Where the seeds share their queries, seeds and queries are resampled apart
(the pigeonhole bootstrap; Owen 2007, Annals of Applied Statistics 1:386). With few seeds a resample of them varies too
little: the percentile levels are widened from normal to a t of seeds - 1 degrees of freedom (Hesterberg 2015, The
American Statistician 69:371). A single seed leaves the queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from cascade.errors import InputError
from evaluation.intervals import FloatArray, Interval, checked_confidence

METHOD = "seed bootstrap"


@dataclass(frozen=True, slots=True)
class SeedOutcome:
    """One arm with one seed, on the n held-out queries of that seed; each array has shape (n,)."""

    before: FloatArray
    """What the champion's cascade cost (USD) or did (0 or 1), per query."""
    after: FloatArray
    """The same of the arm's."""


@dataclass(frozen=True, slots=True)
class Resampled:
    """Sums of all arms in the same resamples."""

    before: dict[str, FloatArray]
    """(resamples,) per arm."""
    after: dict[str, FloatArray]
    drawn: FloatArray
    """(resamples,) queries drawn in all."""
    outcomes: Mapping[str, Sequence[SeedOutcome]]
    n: int
    """Held-out queries of all seeds."""
    levels: tuple[float, float]


def resample(
    arms: Mapping[str, Sequence[SeedOutcome]],
    confidence: float = 0.9,
    *,
    shared_queries: bool,
    resamples: int = 4000,
    seed: int = 0,
) -> Resampled:
    """Resample all arms at once. Seed k of every arm must have the same queries; `shared_queries` says that all seeds
    have the same, in the same order. Raises InputError when lengths differ.
    """
    tail = (1 - checked_confidence(confidence)) / 2
    sizes = {tuple(len(outcome.after) for outcome in outcomes) for outcomes in arms.values()}
    if len(sizes) != 1:
        raise InputError(f"the arms have {sorted(sizes)} held-out queries per seed: give all the same seeds")
    lengths = sizes.pop()
    if shared_queries and len(set(lengths)) > 1:
        raise InputError(f"the seeds have {sorted(set(lengths))} held-out queries: they do not share them")
    rng = np.random.default_rng(seed)
    counts = _seed_counts(len(lengths), resamples, rng)
    columns = np.zeros((resamples, 2 * len(arms)))
    query_seed = int(rng.integers(2**32))
    for place in range(len(lengths)):
        own = [column for outcomes in arms.values() for column in (outcomes[place].before, outcomes[place].after)]
        table = np.stack(own, axis=1)
        whole = len(lengths) > 1 and not shared_queries
        # The same seed draws the same queries for every seed of the experiment.
        sums = table.sum(axis=0)[None, :] if whole else _query_sums(table, resamples, np.random.default_rng(query_seed))
        columns += sums * counts[:, [place]]
    return Resampled(
        before={name: columns[:, 2 * i] for i, name in enumerate(arms)},
        after={name: columns[:, 2 * i + 1] for i, name in enumerate(arms)},
        drawn=counts @ np.array(lengths, np.float64),
        outcomes=arms,
        n=sum(lengths),
        levels=_levels(tail, len(lengths)),
    )


def saving(found: Resampled, arm: str) -> Interval:
    """Relative saving of an arm over its champion: 1 - sum(after) / sum(before). Raises InputError when the champion's
    cascade cost nothing."""
    return _interval(_cut(found, arm), _cuts(found, arm), found)


def gain(found: Resampled, arm: str) -> Interval:
    """Mean of after - before per query, as of grades."""
    outcomes = found.outcomes[arm]
    value = sum(float((o.after - o.before).sum()) for o in outcomes) / found.n
    return _interval(value, (found.after[arm] - found.before[arm]) / found.drawn, found)


def difference(found: Resampled, arm: str, other: str) -> Interval:
    """How much more one arm saves than another, in shares of the champion's cost."""
    return _interval(_cut(found, arm) - _cut(found, other), _cuts(found, arm) - _cuts(found, other), found)


def times_as_much(found: Resampled, arm: str, other: str) -> Interval | None:
    """How many times one arm saves what another saves; None where the other's saving is not told apart from zero, as
    the ratio then has no meaning."""
    below = _cuts(found, other)
    if float(np.quantile(below, found.levels[0])) <= 0:
        return None
    ratios = np.where(below > 0, _cuts(found, arm) / np.where(below > 0, below, 1.0), np.inf)
    return _interval(_cut(found, arm) / _cut(found, other), ratios, found)


def _seed_counts(n_seeds: int, resamples: int, rng: np.random.Generator) -> FloatArray:
    """(resamples, seeds): how often each seed is drawn; a single one is always drawn once."""
    if n_seeds == 1:
        return np.ones((resamples, 1))
    return rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), resamples).astype(np.float64)


def _cuts(found: Resampled, arm: str) -> FloatArray:
    before = found.before[arm]
    return 1 - found.after[arm] / np.where(before > 0, before, np.inf)


def _query_sums(columns: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    """(resamples, columns) sums over rows drawn with replacement."""
    n = len(columns)
    chunk = max(1, 4_000_000 // n)
    parts = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        counts = rng.multinomial(n, np.full(n, 1 / n), size).astype(np.float64)
        parts.append(counts @ columns)
    return np.concatenate(parts)


def _cut(found: Resampled, arm: str) -> float:
    outcomes = found.outcomes[arm]
    before = sum(float(outcome.before.sum()) for outcome in outcomes)
    if before <= 0:
        raise InputError("the champion's cascade cost nothing on these queries: there is nothing to save")
    return 1 - sum(float(outcome.after.sum()) for outcome in outcomes) / before


def _levels(tail: float, n_seeds: int) -> tuple[float, float]:
    if n_seeds < 2:
        return tail, 1 - tail
    low = float(ndtr(stdtrit(n_seeds - 1, tail) * np.sqrt(n_seeds / (n_seeds - 1))))
    return low, 1 - low


def _interval(value: float, drawn: NDArray[np.float64], found: Resampled) -> Interval:
    low, high = np.quantile(drawn, found.levels, method="inverted_cdf")
    return Interval(value, min(value, float(low)), max(value, float(high)), found.n, METHOD)
