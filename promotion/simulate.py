"""How often would this policy promote? The gate itself, run on resampled rows with a true effect put in.

The rows of a run are taken as the population. Each repetition draws n of them with replacement, gives the candidate
the true effect asked for (in expectation over the population, at random in each sample), and puts the sample before
the real report and the real gate. What is kept from the run is what cannot be guessed: how costs are distributed,
how often the two sides disagree, how large the clusters are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from cascade.errors import InputError
from evaluation.intervals import Interval, clopper_pearson
from evaluation.metrics import MetricsConfig
from evaluation.report import build_report
from evaluation.table import BoolArray, FloatArray, IntArray, PairedTable, SideTable
from promotion.decision import Decision, GateOutcome
from promotion.gate import decide
from promotion.policy import GatePolicy

Generator = np.random.Generator


@dataclass(frozen=True, slots=True)
class Effect:
    """What is true of the candidate, over all traffic."""

    cost_cut: float = 0.2
    """1 - its cost / the champion's; below zero it is dearer."""
    quality: float = 0.0
    """Its served quality - the champion's; -0.02 is two points worse."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """How the gate decided over the repetitions."""

    effect: Effect
    n: int
    repetitions: int
    promoted: Interval
    """Share that was promoted, with its exact 95 % interval."""
    rejected: float
    inconclusive: float
    open_checks: dict[str, float]
    """Check -> share of repetitions in which it did not pass."""


@dataclass(frozen=True, slots=True)
class _Change:
    """Row-wise chances with which a sample's candidate is changed, so that the effect holds in expectation."""

    escalate: FloatArray
    accept: FloatArray
    spoil: FloatArray
    mend: FloatArray


Draw = Callable[[Generator, IntArray], PairedTable]
"""(random numbers, rows of the population) -> a sample of these rows; a row that occurs twice is changed twice, each
time by its own luck."""


def with_effect(table: PairedTable, effect: Effect) -> Draw:
    """Samples of the table in which the candidate is changed, at random, to have `effect` over the population.

    Costs move by turning escalations of the candidate into acceptances or back; quality by turning single served
    grades. Raises InputError where costs are unknown or the effect is out of reach (a cut larger than all that
    escalation costs, a quality above 1).
    """
    if np.isnan(table.flagship_cost).any() or not (table.champion.known & table.candidate.known).all():
        raise InputError("a simulation needs the cost of every row: fill in the missing token counts or prices")
    change = _plan(table, effect)

    def draw(rng: Generator, rows: IntArray) -> PairedTable:
        sample, n = table.take(rows), len(rows)
        side, before, large = sample.candidate, sample.champion, sample.flagship_cost
        escalate = side.accepted & (rng.random(n) < change.escalate[rows])
        accept = ~side.accepted & (rng.random(n) < change.accept[rows])
        served = np.where(escalate, before.served, side.served)
        luck = rng.random(n)
        spoilt, mended = luck < change.spoil[rows], luck < change.mend[rows]
        served = np.where(spoilt & (served > 0), 0.0, np.where(mended, 1.0, served))
        accepted = (side.accepted & ~escalate) | accept
        cost = side.cost + large * escalate - large * accept
        cheap = np.where(accepted, served, side.cheap)
        return sample.with_candidate(SideTable(accepted, cheap, served, cost))

    return draw


def _plan(table: PairedTable, effect: Effect) -> _Change:
    side, before, large = table.candidate, table.champion, table.flagship_cost
    target = (1 - effect.cost_cut) * float(before.cost.mean())
    gap = target - float(side.cost.mean())
    zero = np.zeros(table.n)
    escalate, accept = zero, zero
    if gap > 0:
        # First what the champion escalated too: there the served answer stays the flagship's.
        usual = side.accepted & ~before.accepted
        escalate = _chance(gap, large, usual, side.accepted, "a cost so high")
    elif gap < 0:
        accept = _chance(-gap, large, ~side.accepted, ~side.accepted, "a cost so low")
    served = side.served + escalate * (before.served - side.served)
    lack = effect.quality - float((served - before.served).mean())
    spoil, mend = zero, zero
    if lack > 0:
        worse = served < before.served
        mend = _chance(lack, 1 - served, worse, served < 1, "a quality so high")
    elif lack < 0:
        spoil = _chance(-lack, served, side.accepted, served > 0, "a quality so low")
    return _Change(escalate, accept, spoil, mend)


def _chance(needed: float, gain: FloatArray, first: BoolArray, other: BoolArray, what: str) -> FloatArray:
    """Chance per row so that the mean of chance x gain is `needed`: on `first` where that is enough, else `other`."""
    for rows in (first, other):
        reach = float((gain * rows).mean())
        if reach >= needed:
            chance: FloatArray = np.where(rows, needed / reach, 0.0)
            return chance
    raise InputError(f"{what} cannot be simulated on these rows: ask for an effect nearer to what was seen")


def exchanged(sample: PairedTable, rng: Generator) -> PairedTable:
    """The two sides exchanged in each row with probability 1/2: a candidate that is exactly no better, as unlike the
    champion as the real one."""
    swap = rng.random(sample.n) < 0.5

    def mixed(one: SideTable, other: SideTable) -> SideTable:
        return SideTable(
            np.where(swap, other.accepted, one.accepted),
            np.where(swap, other.cheap, one.cheap),
            np.where(swap, other.served, one.served),
            np.where(swap, other.cost, one.cost),
        )

    return PairedTable(
        mixed(sample.champion, sample.candidate),
        mixed(sample.candidate, sample.champion),
        sample.flagship_cost,
        sample.cluster,
    )


def decide_on(
    sample: PairedTable, policy: GatePolicy, *, seed: int, resamples: int = 2000, heldout_uses: int = 1
) -> Decision:
    """The real report and the real gate on a sample."""
    config = MetricsConfig(alpha=policy.alpha_at(heldout_uses), resamples=resamples, seed=seed, cluster_costs=False)
    report = build_report(
        sample,
        run_id="simulation",
        champion="champion",
        candidate="candidate",
        reference_kind="flagship",
        grade_kind="simulated",
        config=config,
        heldout_uses=heldout_uses,
    )
    return decide(report, policy)


def simulate(
    table: PairedTable,
    policy: GatePolicy,
    effect: Effect,
    *,
    n: int,
    repetitions: int = 500,
    seed: int = 0,
    resamples: int = 2000,
) -> Iterator[Simulation]:
    """The simulation so far, after each repetition (for a progress bar); the last one is the result.

    The checks that need more than rows (payback, audit, judge) are left out. Raises InputError as `with_effect`.
    """
    pure = policy.model_copy(update={"max_payback_queries": None, "max_audit_false_accept": None})
    draw, rng = with_effect(table, effect), np.random.default_rng(seed)
    outcomes = dict.fromkeys(GateOutcome, 0)
    opened: dict[str, int] = {}
    for done in range(1, repetitions + 1):
        sample = draw(rng, rng.integers(0, table.n, n))
        # The bootstrap's draw is kept for ten repetitions: most of its cost is drawing it.
        decision = decide_on(sample, pure, seed=seed + done // 10, resamples=resamples)
        outcomes[decision.outcome] += 1
        for check in decision.checks:
            if check.status != "pass":
                opened[check.name] = opened.get(check.name, 0) + 1
        yield Simulation(
            effect=effect,
            n=n,
            repetitions=done,
            promoted=clopper_pearson(outcomes[GateOutcome.PROMOTE], done),
            rejected=outcomes[GateOutcome.REJECT] / done,
            inconclusive=outcomes[GateOutcome.INCONCLUSIVE] / done,
            open_checks={name: count / done for name, count in sorted(opened.items(), key=lambda kv: -kv[1])},
        )


def rows_for_power(
    table: PairedTable,
    policy: GatePolicy,
    effect: Effect,
    *,
    power: float = 0.8,
    repetitions: int = 200,
    seed: int = 0,
    resamples: int = 1000,
    most: int = 20_000,
) -> Iterator[tuple[int, float]]:
    """(n, share promoted) of each n that is tried; the smallest n that reaches `power` is the smallest tried with a
    share that high. Doubles n from the policy's least until it is enough, then bisects to within 10 %."""

    def share(n: int) -> float:
        runs = list(simulate(table, policy, effect, n=n, repetitions=repetitions, seed=seed + n, resamples=resamples))
        return runs[-1].promoted.value

    low, high = 0, max(policy.min_pairs, 100)
    while True:
        found = share(high)
        yield high, found
        if found >= power:
            break
        if high >= most:
            return
        low, high = high, 2 * high
    while low and high - low > 0.1 * high:
        middle = (low + high) // 2
        found = share(middle)
        yield middle, found
        low, high = (low, middle) if found >= power else (middle, high)
