"""Is the gate's false-promotion rate what it says? Thousands of decisions where the truth is known.

    python -m benchmarks.gate_calibration --out gate_calibration.json

Populations are recorded cascades (ZeroEval, MMLU-Pro, RouteLLM; see benchmarks/recorded_pairs.py, costs estimated
from characters) and lab-like traffic. Each repetition draws n = 1,000 rows with replacement, puts a true effect in,
and asks the real report and the real gate:

    null        the sides exchanged in each row at random: no better in cost or quality, as unlike as recorded
    margin      20 % cheaper, served quality lower by exactly the margin (2 points)
    saving      20 % cheaper, quality equal in every row's expectation
    one cluster 20 % cheaper, but one cluster, drawn at random, loses 30 points; the others gain what it lost and half a
                point more, as far as there are wrong answers left to mend (lab-like: overall 0.7 points lower)
    twelve      twelve candidates, one after another, on one held-out slice (heldout_decisions: 12), all null or
                all at the margin: does any get promoted?

The verifiers of recorded models were not fitted to an error target, so `max_false_accept` is off there: fewer checks
can only promote more.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from evaluation.table import IntArray, PairedTable
    from promotion.policy import GatePolicy
    from promotion.simulate import Draw

N = 1000
CUT = 0.2
RUIN = 0.30
WEEKS = 12


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario in one world."""

    world: str
    scenario: str
    repetitions: int
    hits: int
    """Promotions; for "one cluster" refusals; for "twelve" slices with any promotion."""
    low: float
    high: float
    bound: str
    disagreement: float
    seconds: float

    @property
    def holds(self) -> bool:
        rate = self.hits / self.repetitions
        return rate <= 0.05 if self.bound == "<= 5 %" else rate >= float(self.bound.split()[1]) / 100


def main(argv: list[str] | None = None) -> int:
    """Run the scenarios and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000, help="of null and margin (default 2000)")
    parser.add_argument("--others", type=int, default=1000, help="of saving and one cluster (default 1000)")
    parser.add_argument("--slices", type=int, default=1000, help="held-out slices of the twelve (default 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world", help="only the world whose name starts so")
    parser.add_argument("--scenarios", help="only these, with commas: null,margin,saving,one cluster,...")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args(argv)
    results = list(_run(options))
    _print(results)
    if options.out:
        options.out.write_text(json.dumps([_row(r) for r in results], indent=1) + "\n")
    return 0 if all(r.holds for r in results) else 1


def _run(options: argparse.Namespace) -> Iterator[Result]:
    from tqdm import tqdm

    from benchmarks.recorded_pairs import worlds
    from promotion.policy import GatePolicy

    # The quality that a recorded verifier lets through is no subject here; the lab's is.
    loose = GatePolicy(max_false_accept=None)
    known = list(worlds())
    if options.world and not any(world.name.startswith(options.world) for world in known):
        names = ", ".join(world.name for world in known)
        raise SystemExit(f"no world's name starts with {options.world!r}: take one of {names}")
    for world in known:
        if options.world and not world.name.startswith(options.world):
            continue
        policy = GatePolicy() if world.name == "lab-like" else loose
        wear = policy.model_copy(update={"heldout_decisions": WEEKS})
        draws = _draws(world.table, policy)
        for scenario, repetitions, bound in (
            ("null", options.repetitions, "<= 5 %"),
            ("margin", options.repetitions, "<= 5 %"),
            ("saving", options.others, ">= 80 %"),
            ("one cluster", options.others, ">= 95 %"),
            ("twelve null", options.slices, "<= 5 %"),
            ("twelve margin", options.slices, "<= 5 %"),
        ):
            if options.scenarios and scenario not in options.scenarios.split(","):
                continue
            started, hits, apart = time.perf_counter(), 0, 0.0
            draw = draws[scenario.removeprefix("twelve ")]
            for r in tqdm(range(repetitions), f"{world.name}: {scenario}", leave=False):
                if scenario.startswith("twelve"):
                    hit, differ = _twelve(world.table, draw, wear, options.seed, r)
                else:
                    hit, differ = _once(world.table, draw, policy, options.seed, r)
                    hit = not hit if scenario == "one cluster" else hit
                hits, apart = hits + hit, apart + differ
            yield _result(world.name, scenario, repetitions, hits, bound, apart / repetitions, started)


def _draws(table: PairedTable, policy: GatePolicy) -> dict[str, Draw]:
    """Scenario -> samples of given rows with its effect put in; every effect is exact over the population."""
    import numpy as np

    from promotion.simulate import Effect, exchanged, with_effect

    cheaper = with_effect(table, Effect(cost_cut=CUT))
    clusters = [int(c) for c in np.unique(table.cluster) if c >= 0]
    ruins = [(c, RUIN * float(np.mean(table.cluster == c))) for c in clusters]

    def saving(rng: np.random.Generator, rows: IntArray) -> PairedTable:
        return _even(cheaper(rng, rows), rng)

    # Shares of rows that can be spoilt or mended, over the population: from a sample much larger than any decision's.
    rng = np.random.default_rng(0)
    many = saving(rng, rng.integers(0, table.n, 200_000))
    right, wrong = many.candidate.served > 0, many.candidate.served < 1

    def margin(rng: np.random.Generator, rows: IntArray) -> PairedTable:
        return _spoil(saving(rng, rows), policy.quality_margin / float(right.mean()), None, rng)

    def one_cluster(rng: np.random.Generator, rows: IntArray) -> PairedTable:
        cluster, loss = ruins[rng.integers(len(ruins))]
        sample = saving(rng, rows)
        inside, everywhere = sample.cluster == cluster, many.cluster == cluster
        ruined = _spoil(sample, loss / float(np.mean(right & everywhere)), inside, rng)
        # Better elsewhere by what the cluster lost and half a point more, where there is room for it.
        return _mend(ruined, (loss + 0.005) / float(np.mean(wrong & ~everywhere)), ~inside, rng)

    return {
        "null": lambda rng, rows: exchanged(table.take(rows), rng),
        "margin": margin,
        "saving": saving,
        "one cluster": one_cluster,
    }


def _even(sample: PairedTable, rng: np.random.Generator) -> PairedTable:
    """Served grades exchanged between the sides at random: equal in every row's expectation, as unlike as before."""
    import numpy as np

    swap = rng.random(sample.n) < 0.5
    one, other = sample.champion.served, sample.candidate.served
    return replace(
        sample,
        champion=replace(sample.champion, served=np.where(swap, other, one)),
        candidate=replace(sample.candidate, served=np.where(swap, one, other)),
    )


def _spoil(sample: PairedTable, chance: float, where: Any, rng: np.random.Generator) -> PairedTable:
    """Each right answer that the candidate served (in `where`) made wrong with probability `chance`."""
    import numpy as np

    hit = rng.random(sample.n) < chance
    return _served(sample, np.where(hit if where is None else hit & where, 0.0, sample.candidate.served))


def _mend(sample: PairedTable, chance: float, where: Any, rng: np.random.Generator) -> PairedTable:
    """Each wrong answer that the candidate served in `where` made right with probability `chance` (at most 1)."""
    import numpy as np

    return _served(sample, np.where((rng.random(sample.n) < chance) & where, 1.0, sample.candidate.served))


def _served(sample: PairedTable, served: Any) -> PairedTable:
    import numpy as np

    side = sample.candidate
    return sample.with_candidate(replace(side, served=served, cheap=np.where(side.accepted, served, side.cheap)))


def _once(table: PairedTable, draw: Draw, policy: GatePolicy, seed: int, repetition: int) -> tuple[bool, float]:
    import numpy as np

    from promotion.simulate import decide_on

    rng = np.random.default_rng([seed, repetition])
    sample = draw(rng, rng.integers(0, table.n, N))
    differ = float(np.mean(sample.champion.served != sample.candidate.served))
    return decide_on(sample, policy, seed=repetition // 20).outcome == "promote", differ


def _twelve(table: PairedTable, draw: Draw, policy: GatePolicy, seed: int, repetition: int) -> tuple[bool, float]:
    """Whether any of twelve candidates is promoted on one slice; the queries and the champion stay the same."""
    import numpy as np

    from promotion.simulate import decide_on

    rng = np.random.default_rng([seed, repetition, WEEKS])
    rows = rng.integers(0, table.n, N)
    promoted, differ = False, 0.0
    for week in range(1, WEEKS + 1):
        sample = draw(rng, rows)
        differ += float(np.mean(sample.champion.served != sample.candidate.served)) / WEEKS
        dearer = sample.candidate.cost.mean() >= sample.champion.cost.mean()
        worse = (sample.candidate.served - sample.champion.served).mean() <= -policy.quality_margin
        if dearer or worse or promoted:
            continue  # as observed already: no bound can lie on the better side of its estimate
        decision = decide_on(sample, policy, seed=repetition // 20, heldout_uses=week)
        promoted = decision.outcome == "promote"
    return promoted, differ


def _result(
    world: str, scenario: str, repetitions: int, hits: int, bound: str, disagreement: float, started: float
) -> Result:
    from evaluation.intervals import clopper_pearson

    found = clopper_pearson(hits, repetitions)
    seconds = time.perf_counter() - started
    return Result(world, scenario, repetitions, hits, found.low, found.high, bound, disagreement, seconds)


def _row(result: Result) -> dict[str, Any]:
    names = ("world", "scenario", "repetitions", "hits", "low", "high", "bound", "disagreement", "seconds", "holds")
    return {name: getattr(result, name) for name in names}


def _print(results: list[Result]) -> None:
    print("| world | scenario | asked | found | 95 % interval | repetitions | served grades differ | |")
    print("|---|---|---|---|---|---|---|---|")
    for r in results:
        what = "refused" if r.scenario == "one cluster" else "promoted"
        print(
            f"| {r.world} | {r.scenario} | {what} {r.bound} | {r.hits / r.repetitions:.1%} "
            f"| [{r.low:.1%}, {r.high:.1%}] | {r.repetitions:,} | {r.disagreement:.1%} "
            f"| {'holds' if r.holds else 'FAILS'} |"
        )
    print("\nmade by: python -m benchmarks.gate_calibration")


if __name__ == "__main__":
    raise SystemExit(main())
