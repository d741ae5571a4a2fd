"""What a cascade costs at a given quality, from the recorded outcomes of both tiers: frontier, references, intervals.

Costs are charged sequentially (cascade/cost.py): cheap and verifier on every query that the cheap model sees, the
flagship on those that escalate. Shares of cost are shares of what always asking the flagship costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cascade.cost import escalation_floor
from cascade.errors import InputError
from evaluation.intervals import Interval

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
LEVELS = np.linspace(0.0, 1.0, 101)
"""Shares of queries that stay with the cheap model, at which a policy is looked at."""


@dataclass(frozen=True, slots=True)
class PairOutcomes:
    """Both tiers' outcomes on the same queries, shape (n,) each: grades 0..1 and costs in USD."""

    cheap_grade: Floats
    flagship_grade: Floats
    cheap_usd: Floats
    flagship_usd: Floats

    def __post_init__(self) -> None:
        if not len(self.cheap_grade):
            raise InputError("no query was answered by both models: name two models of one record")

    def __len__(self) -> int:
        return len(self.cheap_grade)

    def part(self, rows: NDArray[np.intp]) -> PairOutcomes:
        """The outcomes of some of the queries."""
        return PairOutcomes(
            self.cheap_grade[rows], self.flagship_grade[rows], self.cheap_usd[rows], self.flagship_usd[rows]
        )

    @property
    def flagship_quality(self) -> float:
        return float(self.flagship_grade.mean())

    @property
    def cheap_quality(self) -> float:
        return float(self.cheap_grade.mean())

    @property
    def oracle_quality(self) -> float:
        """Mean of the better of the two answers: what a perfect verifier would serve."""
        return float(np.maximum(self.cheap_grade, self.flagship_grade).mean())


@dataclass(frozen=True, slots=True)
class Scores:
    """A policy's ranking of the same queries."""

    keep: Floats
    """(n,) higher = rather keep the cheap answer."""
    verifier_usd: Floats | float = 0.0
    """What judging costs on each query that the cheap model answers."""
    before: bool = False
    """True when it decides before the cheap model answers (a router): what it sends on costs no cheap answer."""

    def part(self, rows: NDArray[np.intp]) -> Scores:
        """The scores of some of the queries."""
        usd = self.verifier_usd[rows] if isinstance(self.verifier_usd, np.ndarray) else self.verifier_usd
        return Scores(self.keep[rows], usd, self.before)


@dataclass(frozen=True, slots=True)
class Served:
    """What each query got and cost, shape (n,) or (levels, n)."""

    grade: Floats
    usd: Floats


def thresholds(scores: Scores) -> Floats:
    """(levels,) thresholds at which the given shares of these queries stay with the cheap model."""
    ordered = np.sort(scores.keep)[::-1]
    counts = np.rint(LEVELS * len(ordered)).astype(int)
    # Above the first: keeps none; the last keeps all, whatever its score.
    edges = np.concatenate([[np.inf], ordered[:-1], [-np.inf]])
    return np.asarray(edges[np.minimum(counts, len(ordered))], dtype=np.float64)


def serve(pair: PairOutcomes, scores: Scores, at: Floats | float, direct: Bools | None = None) -> Served:
    """Serve every query at each threshold: shape (levels, n), or (n,) for a single threshold.

    `direct` marks queries that a router sends straight to the flagship before anything else happens.
    """
    single = np.isscalar(at)
    keep = scores.keep[None, :] >= np.atleast_1d(np.asarray(at))[:, None]
    sent = np.zeros(len(pair), dtype=bool) if direct is None else direct
    keep &= ~sent[None, :]
    tried = keep if scores.before else np.broadcast_to(~sent[None, :], keep.shape)
    usd = tried * (pair.cheap_usd + scores.verifier_usd)[None, :] + ~keep * pair.flagship_usd[None, :]
    grade = np.where(keep, pair.cheap_grade[None, :], pair.flagship_grade[None, :])
    return Served(grade[0], usd[0]) if single else Served(grade, usd)


def cheapest(curve: Served, target: float) -> int | None:
    """The level of least mean cost whose mean quality reaches `target`; None when none does."""
    quality, usd = curve.grade.mean(axis=1), curve.usd.mean(axis=1)
    reached = np.flatnonzero(quality >= target - 1e-12)
    return int(reached[np.argmin(usd[reached])]) if len(reached) else None


def random_mixing(pair: PairOutcomes, quality: float) -> float | None:
    """Mean USD of a coin that sends each query to one tier (never both) and reaches `quality`; None out of reach.

    Quality and cost are linear in the coin's bias, so this is exact: the line between the two tiers. A coin flipped
    before the cheap model answers is cheaper than any verifier that decides at random, so it is the one to beat.
    """
    low, high = pair.cheap_quality, pair.flagship_quality
    if quality <= low:
        return float(pair.cheap_usd.mean())
    if quality > high + 1e-9:
        return None
    share = (quality - low) / (high - low)
    return float((1 - share) * pair.cheap_usd.mean() + share * pair.flagship_usd.mean())


def oracle(pair: PairOutcomes, target: float) -> float | None:
    """Mean USD of a perfect free verifier that reaches `target`: it escalates only what the flagship does better."""
    gain = pair.flagship_grade - pair.cheap_grade
    order = np.argsort(-gain, kind="stable")
    quality = pair.cheap_quality + np.concatenate([[0.0], np.cumsum(np.maximum(gain[order], 0.0))]) / len(pair)
    usd = pair.cheap_usd.mean() + np.concatenate([[0.0], np.cumsum(pair.flagship_usd[order])]) / len(pair)
    reached = np.flatnonzero(quality >= target - 1e-12)
    return float(usd[reached[0]]) if len(reached) else None


def floor_points(pair: PairOutcomes, n: int = 25) -> list[tuple[float, float]]:
    """(mean USD, quality) on the floor (cheap error - t) / (1 - t), t being the error among accepted answers.

    A perfect verifier and a flagship that is never wrong: where the record's flagship is wrong at times, even the
    oracle stays to the right of it.
    """
    error = 1 - pair.cheap_quality
    points = []
    for t in np.linspace(0.0, error, n) if error < 1 else []:
        share = escalation_floor(error, float(t))
        usd = float(pair.cheap_usd.mean() + share * pair.flagship_usd.mean())
        points.append((usd, 1 - float(t) * (1 - share)))
    return points


def saving_over_random(
    pair: PairOutcomes, served: Served, *, confidence: float = 0.9, resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """How much less a policy costs than random mixing of the same quality, as a share of always-flagship.

    Paired: each resample of queries recomputes the policy, both tiers and the mixing line. Positive means that the
    policy's signal is worth something. None where the flagship is not better than the cheap model, so that there is
    no line. Percentile bootstrap.
    """
    columns = np.stack(
        [served.grade, served.usd, pair.cheap_grade, pair.flagship_grade, pair.cheap_usd, pair.flagship_usd], axis=1
    )
    value = _saving(columns.mean(axis=0)[None, :])[0]
    if not np.isfinite(value):
        return None
    means = resampled_means(columns, resamples, seed)
    drawn = _saving(means)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(value), float(low), float(high), len(pair), "bootstrap-percentile")


def _saving(means: Floats) -> Floats:
    grade, usd, cheap, flagship, cheap_usd, flagship_usd = means.T
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.clip((grade - cheap) / (flagship - cheap), 0.0, 1.0)
    share = np.where(flagship > cheap, share, np.nan)
    line = (1 - share) * cheap_usd + share * flagship_usd
    saving: Floats = (line - usd) / flagship_usd
    return saving


def resampled_means(columns: Floats, resamples: int, seed: int) -> Floats:
    """(resamples, k) means of rows drawn with replacement from `columns` (n, k)."""
    rng = np.random.default_rng(seed)
    n = len(columns)
    out = np.empty((resamples, columns.shape[1]))
    for start in range(0, resamples, 50):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=min(50, resamples - start))
        out[start : start + len(counts)] = counts @ columns / n
    return out


def mean_served(parts: Sequence[Served]) -> Served:
    """Average over repeated splits, query by query: the query stays the unit, however often it was tested."""
    return Served(np.mean([part.grade for part in parts], axis=0), np.mean([part.usd for part in parts], axis=0))
