"""Families of policies on a recorded pair, each query tested exactly once per repetition by what never saw it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cascade.cost import PriceTable
from cascade.verifiers import Embed
from evaluation.frontier import (
    Bools,
    Floats,
    PairOutcomes,
    Scores,
    Served,
    cheapest,
    mean_served,
    serve,
    thresholds,
)
from evaluation.recorded import Policy, RecordedPair, Rows, rank

ROUTERS = ("router", "router per USD")
FAMILIES = ("rules", "single", "learned", *ROUTERS, "both")
DIRECT_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Shares of queries that "both" may send straight to the flagship; which, the choosing rows say."""


@dataclass(frozen=True, slots=True)
class Option:
    """A policy, with the queries that a router takes out before it."""

    name: str
    choose: Scores
    test: Scores
    choose_direct: Bools | None = None
    test_direct: Bools | None = None
    policy: Policy | None = field(default=None, repr=False)
    """The policy that ranks what the router leaves."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The option and threshold that met a target at least cost on the choosing rows."""

    option: Option
    threshold: float


def options(policies: Sequence[Policy], family: str) -> list[Option]:
    """The options of a family; none where the record feeds none."""
    if family != "both":
        return [Option(p.name, p.choose, p.test, policy=p) for p in policies if p.family == family]
    found = []
    for policy in (p for p in policies if p.family == "learned"):
        found.append(Option(f"{policy.name}, no router", policy.choose, policy.test, policy=policy))
        for router in (p for p in policies if p.family in ROUTERS):
            for share in DIRECT_SHARES:
                at = float(np.quantile(router.choose.keep, share))
                direct = (router.choose.keep < at, router.test.keep < at)
                name = f"{policy.name}, {share:.0%} direct by {router.name}"
                found.append(Option(name, policy.choose, policy.test, *direct, policy))
    return found


def choose(pair: PairOutcomes, found: Sequence[Option], target: float) -> Choice:
    """The cheapest option and threshold whose quality on the choosing rows reaches `target`, a share of the flagship's.

    `pair` holds the choosing rows. Sending everything to the flagship always reaches a target of up to 1.
    """
    best: tuple[float, Option, float] | None = None
    for option in found:
        at = thresholds(option.choose)
        curve = serve(pair, option.choose, at, option.choose_direct)
        level = cheapest(curve, target * pair.flagship_quality)
        if level is not None:
            usd = float(curve.usd[level].mean())
            if best is None or usd < best[0]:
                best = (usd, option, float(at[level]))
    if best is None:
        return Choice(found[0], float("inf"))
    return Choice(best[1], best[2])


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """A family at one target, over all queries."""

    family: str
    target: float
    served: Served
    """(n,): at thresholds chosen without the tested query; mean over repetitions."""
    curve_quality: Floats
    """(levels,) mean quality over all tested queries at each share kept, for the frontier."""
    curve_usd: Floats
    chosen: dict[str, int]
    """How often each option was chosen, over folds and repetitions."""

    def usd_at(self, quality: float) -> float | None:
        """Least mean USD of the test curve that reaches `quality`: the customary figure, whose level the test itself
        picked. Linear between levels."""
        return interpolated(self.curve_quality, self.curve_usd, quality)


def interpolated(quality: Floats, usd: Floats, target: float) -> float | None:
    """Least USD at which a curve over levels reaches a quality, linear between neighbours; None out of reach."""
    best: float | None = None
    for i in range(len(quality)):
        costs = [float(usd[i])] if quality[i] >= target - 1e-12 else []
        if i and (quality[i] - target) * (quality[i - 1] - target) < 0:
            share = (target - quality[i - 1]) / (quality[i] - quality[i - 1])
            costs.append(float(usd[i - 1] + share * (usd[i] - usd[i - 1])))
        best = min([*costs, *([] if best is None else [best])], default=None)
    return best


def crossfit_families(
    pair: RecordedPair,
    prices: PriceTable,
    targets: Sequence[float],
    *,
    embed: Embed | None,
    seeds: Sequence[int],
    folds: int = 5,
    on_fold: Callable[[], None] = lambda: None,
) -> list[FamilyResult]:
    """Every family at every target. Each seed cuts the queries into `folds`; each fold is tested by policies that
    learnt, and chose option and threshold by cross-fitted scores, on the other folds alone. A family that some fold
    holds too little for is left out."""
    n = len(pair.queries)
    parts: dict[tuple[str, float], list[_Part]] = {}
    for seed in seeds:
        fold = np.random.default_rng(seed).permutation(n) % folds
        for k in range(folds):
            rows, test = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
            policies = rank(pair, prices, rows, test, embed=embed, seed=seed)
            for part in _fold_parts(pair.outcomes, policies, rows, test, targets):
                parts.setdefault((part.family, part.target), []).append(part)
            on_fold()
    whole = [found for found in parts.values() if len(found) == folds * len(seeds)]
    return [_pooled(found, n, folds) for found in whole]


@dataclass(frozen=True, slots=True)
class _Part:
    family: str
    target: float
    test: Rows
    served: Served
    quality_sum: Floats
    usd_sum: Floats
    option: str


def _fold_parts(
    outcomes: PairOutcomes, policies: Sequence[Policy], rows: Rows, test: Rows, targets: Sequence[float]
) -> list[_Part]:
    found = []
    for family in FAMILIES:
        family_options = options(policies, family)
        for target in targets if family_options else ():
            choice = choose(outcomes.part(rows), family_options, target)
            option, tested = choice.option, outcomes.part(test)
            served = serve(tested, option.test, choice.threshold, option.test_direct)
            curve = serve(tested, option.test, thresholds(option.test), option.test_direct)
            sums = (curve.grade.sum(axis=1), curve.usd.sum(axis=1))
            found.append(_Part(family, target, test, served, *sums, option.name))
    return found


def _pooled(parts: Sequence[_Part], n: int, folds: int) -> FamilyResult:
    repetitions = []
    for start in range(0, len(parts), folds):
        grade, usd = np.full(n, np.nan), np.full(n, np.nan)
        for part in parts[start : start + folds]:
            grade[part.test], usd[part.test] = part.served.grade, part.served.usd
        repetitions.append(Served(grade, usd))
    total = n * len(repetitions)
    names: list[str] = [part.option for part in parts]
    return FamilyResult(
        parts[0].family,
        parts[0].target,
        mean_served(repetitions),
        np.sum([part.quality_sum for part in parts], axis=0) / total,
        np.sum([part.usd_sum for part in parts], axis=0) / total,
        {name: names.count(name) for name in dict.fromkeys(names)},
    )
