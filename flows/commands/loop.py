"""The loop as commands: demo, run, compare, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascade.errors import InputError
from flows.commands.shared import DEMO, Config, RunId, Seed, new_id, opened

if TYPE_CHECKING:
    from flows.config import RunConfig
    from flows.context import RunContext


def demo(
    config: Config = DEMO,
    seed: Annotated[int | None, typer.Option(help="Seed of the lab's traffic and of the run.")] = None,
    run_id: RunId = None,
) -> None:
    """Run the whole loop on a lab world: traffic, escalations, clusters, LoRA, evaluation, decision."""
    from flows.console import say
    from flows.demo import demo_world, improve_in
    from flows.run_tables import print_run
    from flows.serve import replay_traffic
    from flows.summary import share
    from flows.traffic_tables import print_replay

    run_id = run_id or new_id("demo")
    with demo_world(config, run_id, seed) as (settings, traffic):
        say("1/2 serving the traffic through the cascade as it is")
        served = replay_traffic(settings, traffic)
        print_replay(served)
        say("2/2 improving it: collect, cluster, build, train, evaluate, decide")
        done = improve_in(settings, traffic, served, run_id)
    print_run(done.ctx)
    score = done.cluster_score
    rand = "unknown" if score.adjusted_rand is None else f"{score.adjusted_rand:.3f}"
    say(f"clusters against the planted skills: adjusted Rand index {rand} (noise apart: {share(score.noise_share)})")


def run(
    config: Config = DEMO,
    run_id: RunId = None,
    seed: Seed = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop at the decision; change no alias.")] = False,
) -> None:
    """One improvement run on the stored traces: collect, cluster, build, train, evaluate, decide, promote."""
    from flows.assess import awaits_word
    from flows.records import load_decision
    from flows.run_tables import print_run
    from promotion.decision import AWAITS_APPROVAL

    with opened(config, seed) as (settings, _):
        ctx = _improve(settings, run_id or new_id("run"), dry_run)
        print_run(ctx)
        waits = not dry_run and awaits_word(ctx)
    raise typer.Exit(AWAITS_APPROVAL if waits else load_decision(ctx).exit_code)


def compare(
    config: Config = DEMO,
    run_id: RunId = None,
    seeds: Annotated[str, typer.Option(help="Seeds to repeat the experiment with, as 1,2,3.")] = "1",
    answers: Annotated[
        str | None, typer.Option(help="Numbers of flagship answers, as 250,500,1000; target.n_answers unless given.")
    ] = None,
    arms: Annotated[
        str | None, typer.Option(help="Arms with commas, or all; the three main ones and two without training if not.")
    ] = None,
) -> None:
    """Targeted against other ways to spend the same flagship answers and training tokens: savings with intervals."""
    from flows.arms import ARMS, MAIN, choose_arms
    from flows.compare import compare as compare_flow
    from flows.run_tables import print_comparison
    from flows.serve import replay_traffic
    from flows.traffic_tables import print_replay

    names = list(ARMS) if arms == "all" else arms.split(",") if arms else list(MAIN)
    chosen = [arm.name for arm in choose_arms(names)]
    numbers = _numbers(seeds, "--seeds"), _numbers(answers, "--answers") if answers else []
    with opened(config) as (settings, traffic):
        if traffic is not None:
            print_replay(replay_traffic(settings, traffic))
        levels = numbers[1] or [settings.target.n_answers]
        root = Path(compare_flow(settings, run_id or new_id("compare"), chosen, numbers[0], levels))
    print_comparison(root, settings.compare_at_quality)


def report(run_id: Annotated[str, typer.Argument(help="The run to report on.")], config: Config = DEMO) -> None:
    """Write a run's HTML report again, print its tables and the report's path."""
    from flows.context import open_run
    from flows.report import write_report
    from flows.run_tables import print_run

    with opened(config, start_lab=False) as (settings, _):
        ctx = open_run(settings.runs / run_id)
        write_report(ctx)
        print_run(ctx)


def _improve(settings: RunConfig, run_id: str, dry_run: bool) -> RunContext:
    from flows.context import open_run
    from flows.improve import improve

    improve(settings, run_id, dry_run)
    return open_run(settings.runs / run_id)


def _numbers(text: str, option: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} is {text!r}: give whole numbers with commas, as 1,2,3") from None
    if min(numbers) < 1:
        raise InputError(f"{option} is {text!r}: give numbers of at least 1")
    return list(dict.fromkeys(numbers))
