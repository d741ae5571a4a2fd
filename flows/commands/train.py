"""Training by hand: sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from cascade.errors import InputError
from flows.commands.shared import DEMO, Config, opened

Number = TypeVar("Number", int, float)


def sweep(
    run_id: Annotated[str, typer.Argument(help="A run whose training set is built (stage 04-build).")],
    config: Config = DEMO,
    rates: Annotated[str, typer.Option(help="Learning rates to try, as 1e-4,3e-4,1e-3.")] = "1e-4,3e-4,1e-3",
    ranks: Annotated[str, typer.Option(help="Ranks to try, as 8,16,32.")] = "16",
    share: Annotated[float, typer.Option(help="Share of the answers to judge by.", min=0.01, max=0.49)] = 0.2,
) -> None:
    """Try learning rates and ranks on a run's training set, judged on a part of it, never on held-out queries."""
    from finetune.sweep import Trial, sweep
    from flows.console import say, table
    from flows.context import open_run
    from flows.stages import train_spec

    chosen_rates, chosen_ranks = _numbers("--rates", rates, float), _numbers("--ranks", ranks, int)
    with opened(config, start_lab=False) as (settings, _):
        ctx = open_run(settings.runs / run_id)
        folder = ctx.run.root / "sweep"
        spec = train_spec(ctx, out=folder / "adapter").model_copy(update={"validation_share": share})
        total, done = len(chosen_rates) * len(chosen_ranks), 0

        def progress(trial: Trial) -> None:
            nonlocal done
            done += 1
            tried = f"learning rate {trial.learning_rate:g}, rank {trial.rank}"
            say(f"{done}/{total} {tried}: validation loss {trial.validation_loss:.4f}")

        trials = sweep(spec, chosen_rates, chosen_ranks, folder, progress)
    table("By validation loss, best first", [_row(trial) for trial in trials])
    best = trials[0]
    say(f"for the configuration:  train: {{learning_rate: {best.learning_rate:g}, rank: {best.rank}}}")
    if len(chosen_rates) > 1 and best.learning_rate in (min(chosen_rates), max(chosen_rates)):
        say("the best rate is at the end of those tried: try beyond it")


def _row(trial: object) -> dict[str, object]:
    from finetune.sweep import Trial

    assert isinstance(trial, Trial)
    return {
        "learning rate": f"{trial.learning_rate:g}",
        "rank": trial.rank,
        "validation loss": f"{trial.validation_loss:.4f}",
        "at step": trial.best_step,
        "steps": trial.n_steps,
        "training loss": f"{trial.final_loss:.4f}",
        "seconds": round(trial.seconds),
    }


def _numbers(option: str, text: str, kind: Callable[[str], Number]) -> list[Number]:
    try:
        values = list(dict.fromkeys(kind(part) for part in text.split(",")))
    except ValueError:
        raise InputError(f"{option} is {text!r}: give numbers with commas") from None
    if min(values) <= 0:
        raise InputError(f"{option} is {text!r}: give numbers above 0")
    return values
