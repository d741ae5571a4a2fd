"""A simulation of the gate on a run's rows, with its progress bar and tables."""

from __future__ import annotations

from tqdm import tqdm

from cascade.errors import StageError
from evaluation.replay import paired_row_from_dict
from evaluation.table import PairedTable, table_of
from flows.console import say, table
from flows.context import RunContext
from flows.records import EVALUATE
from flows.rundir import read_jsonl
from promotion.policy import GatePolicy
from promotion.simulate import Effect, rows_for_power, simulate


def run_table(ctx: RunContext) -> PairedTable:
    """The run's held-out rows as a population. StageError when it has not evaluated its candidate."""
    if ctx.run.manifest(EVALUATE) is None:
        raise StageError(f"{ctx.run.root} has no evaluated candidate yet: let the run go on first")
    return table_of([paired_row_from_dict(row) for row in read_jsonl(ctx.run.stage(EVALUATE) / "pairs.jsonl")])


def print_simulation(
    rows: PairedTable, policy: GatePolicy, effect: Effect, n: int, repetitions: int, seed: int
) -> None:
    """Run a simulation and print how often the gate promoted, and which checks stood in the way."""
    steps = tqdm(
        simulate(rows, policy, effect, n=n, repetitions=repetitions, seed=seed),
        "simulate the gate",
        repetitions,
        unit="decision",
    )
    last = None
    for last in steps:
        steps.set_postfix_str(f"promoted {last.promoted.value:.0%}", refresh=False)
    assert last is not None
    promoted = last.promoted
    table(
        f"A candidate {effect.cost_cut:.0%} cheaper, quality {100 * effect.quality:+.1f} points, on {n} such rows",
        [
            {
                "promoted": f"{promoted.value:.1%} [{promoted.low:.1%}, {promoted.high:.1%}]",
                "rejected": f"{last.rejected:.1%}",
                "inconclusive": f"{last.inconclusive:.1%}",
                "decisions": last.repetitions,
            }
        ],
    )
    opened = [{"check": name, "did not pass": f"{share:.1%}"} for name, share in last.open_checks.items()]
    table("What stood in the way", opened)


def print_rows_needed(rows: PairedTable, policy: GatePolicy, effect: Effect, seed: int) -> None:
    """Search the number of held-out rows with which such a candidate is promoted four times in five."""
    tried = []
    for n, share in tqdm(rows_for_power(rows, policy, effect, seed=seed), "rows for 80 % power", unit="n"):
        tried.append((n, share))
    table("Power", [{"held-out rows": n, "promoted": f"{share:.0%}"} for n, share in sorted(tried)])
    enough = [n for n, share in tried if share >= 0.8]
    most = max(n for n, _ in tried)
    say(f"about {min(enough):,} held-out rows reach 80 %" if enough else f"not even {most:,} held-out rows reach 80 %")
