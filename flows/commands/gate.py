"""The gate as commands: verify, simulate, approve, reject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.shared import DEMO, Config, opened, user

if TYPE_CHECKING:
    from flows.context import RunContext
    from promotion.approval import Word

Run = Annotated[str, typer.Argument(help="The run, as `status` lists it.")]
Why = Annotated[str, typer.Option(help="Reason, kept with the decision and in the history.")]


def verify(run_id: Run, config: Config = DEMO) -> None:
    """Make a run's decision again from its rows and say where it differs (exit status 0 equal, 6 different)."""
    from flows.console import say, table
    from flows.context import open_run
    from flows.records import load_decision
    from flows.verify import verify_run
    from promotion.decision import DIFFERS

    with opened(config, start_lab=False) as (settings, _):
        ctx = open_run(settings.runs / run_id)
        found = verify_run(ctx)
        if not found:
            say(f"{run_id}: {load_decision(ctx).outcome.upper()} follows from its rows and the policy; nothing differs")
            return
        table(f"{run_id}: {len(found)} differences", [{"difference": line} for line in found[:40]])
    raise typer.Exit(DIFFERS)


def simulate(
    run_id: Run,
    cost_cut: Annotated[float, typer.Option(help="True relative cost cut: 0.2 is a fifth cheaper.")] = 0.2,
    quality: Annotated[float, typer.Option(help="True difference of served quality: -0.01 is a point worse.")] = 0.0,
    n: Annotated[int | None, typer.Option(help="Held-out queries per decision (default: the run's).")] = None,
    repetitions: Annotated[int, typer.Option(help="Decisions to simulate.")] = 500,
    rows_needed: Annotated[bool, typer.Option("--rows-needed", help="Also look for the n of 80 % power.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the resampling.")] = 0,
    config: Config = DEMO,
) -> None:
    """How often this policy would promote a candidate of a known true effect, on rows like this run's.

    The run's rows are the population: each repetition draws n of them, puts the effect in, and asks the real gate.
    """
    from flows.context import open_run
    from flows.simulation import print_rows_needed, print_simulation, run_table
    from promotion.simulate import Effect

    with opened(config, start_lab=False) as (settings, _):
        ctx = open_run(settings.runs / run_id)
        rows, effect = run_table(ctx), Effect(cost_cut=cost_cut, quality=quality)
        print_simulation(rows, ctx.config.gate, effect, n or rows.n, repetitions, seed)
        if rows_needed:
            print_rows_needed(rows, ctx.config.gate, effect, seed)


def approve(run_id: Run, why: Why, config: Config = DEMO) -> None:
    """Let a candidate that passed the gate serve, where the policy asks for a person's word."""
    from promotion.approval import Word

    with opened(config, start_lab=False) as (settings, _):
        from flows.console import say
        from flows.context import open_run

        ctx = open_run(settings.runs / run_id)
        say(f"champion is {_speak(ctx, Word.APPROVE, why)}; `rollback` restores the one before")


def reject(run_id: Run, why: Why, config: Config = DEMO) -> None:
    """Refuse a candidate that passed the gate; the champion serves on (exit status 3)."""
    from promotion.approval import Word
    from promotion.decision import GateOutcome

    with opened(config, start_lab=False) as (settings, _):
        from flows.console import say
        from flows.context import open_run

        ctx = open_run(settings.runs / run_id)
        say(f"rejected; champion is {_speak(ctx, Word.REJECT, why)}")
    raise typer.Exit(GateOutcome.REJECT.exit_code)


def _speak(ctx: RunContext, word: Word, why: str) -> str:
    """Keep a person's word, act on it, and return the champion's version."""
    from flows.approval import speak

    speak(ctx, word, user(), why)
    return ctx.state.registry.resolve("champion").id
