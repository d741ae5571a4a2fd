"""What the gate says of finished arms whose candidate is held to the champion's quality, and without.

    python -m benchmarks.held_quality --sets clinc150,banking77 --seeds 34,35,36,37,38

Takes the worlds that `benchmarks.targeted_vs_untargeted` has run here (.lab/benchmarks/targeted), trains nothing, and
fits the candidate's verifier again: by its promise alone, and with each `calibration.max_quality_loss` that is named. A
comparison of arms leaves that setting off, so its own tables do not show it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.context import RunContext


def main() -> None:
    """Fit every world's verifiers again and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="clinc150", help="as of targeted_vs_untargeted, with commas")
    parser.add_argument("--seeds", default="34,35,36,37,38")
    parser.add_argument("--part", choices=("development", "test"), default="test")
    parser.add_argument("--arm", default="targeted", help="an arm that trains")
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--losses", default="0.0", help="values of calibration.max_quality_loss, with commas")
    given = parser.parse_args()

    from flows.console import say, table

    losses = [float(loss) for loss in given.losses.split(",")]
    worlds = [f"{name}-{given.part}-{seed}" for name in given.sets.split(",") for seed in given.seeds.split(",")]
    rows = []
    for world in worlds:
        ctx = open_arm(world, given.arm, given.answers)
        rows += [{"world": world} | row for row in arm_rows(ctx, losses)]
    table(f"{given.arm}, {given.answers:,} answers: verifiers fitted again", rows)
    say(
        f"made by: python -m benchmarks.held_quality --sets {given.sets} --seeds {given.seeds} --part {given.part}"
        f" --arm {given.arm} --answers {given.answers} --losses {given.losses}"
    )


def open_arm(world: str, arm: str, level: int) -> RunContext:
    """A finished arm of a world that was run here."""
    from benchmarks.targeted_vs_untargeted import FOLDER
    from flows.arms import choose_arms
    from flows.context import open_run

    run = replace(open_run((FOLDER / world / "run").resolve()), experiment=True)
    found = next(each for each in choose_arms([arm]) if each.name == arm)
    return replace(run.for_arm(found, run.seed, level), level=level)


def arm_rows(ctx: RunContext, losses: list[float]) -> Iterator[dict[str, Any]]:
    """A row by the promise alone, and one for each loss of quality that is allowed."""
    from flows.assess import known_to_the_verifier, pair_heldout, report_inputs
    from flows.records import BASELINE, EVALUATE, TRAIN, load_traces, read_answers
    from flows.stage_parts import cheap_toolbox, judge_all, refit_verifier
    from flows.summary import cut, points
    from promotion.gate import decide

    baseline = ctx.run.stage(BASELINE)
    champion, flagship, surest = (read_answers(baseline / f"{n}.jsonl") for n in ("champion", "flagship", "surest"))
    candidate = read_answers(ctx.run.stage(ctx.arm_stage(EVALUATE)) / "candidate.jsonl")
    known, heldout = known_to_the_verifier(ctx), [t.query for t in load_traces(ctx, "heldout")]
    heldout = [query for query in heldout if query.id in champion]
    before = refit_verifier(ctx, champion, flagship, {}, surest, cheap_toolbox(ctx, ctx.champion().adapter))
    served = before.calibration.served_right or 0.0
    tools = cheap_toolbox(ctx, ctx.run.stage(ctx.arm_stage(TRAIN)) / "adapter")
    for loss in (None, *losses):
        floor = None if loss is None else served - loss
        verifier = refit_verifier(ctx, candidate, flagship, known, surest, tools, floor)
        rows = pair_heldout(ctx, heldout, champion, candidate, flagship, judge_all(verifier, heldout, candidate))
        report = report_inputs(ctx, rows, {query.id: query for query in heldout}).build(rows)
        found, overall = decide(report, ctx.config.gate), report.overall
        escalated = [side.escalation_rate.value for side in (overall.champion, overall.candidate)]
        yield {
            "max_quality_loss": "-" if loss is None else f"{loss:g}",
            "escalation": " -> ".join(f"{rate:.1%}" for rate in escalated),
            "cost": cut(overall.paired.cost_saving) if overall.paired.cost_saving else "unknown",
            "quality": points(overall.paired.quality_difference),
            "gate": str(found.outcome),
            "open": ", ".join(check.name for check in found.checks if check.status != "pass"),
        }


if __name__ == "__main__":
    main()
