"""The flows as a server starts them: a deployment knows the path of a configuration, not a configuration.

Each opens its configuration when it runs, so an edited file holds from the next run on, and does what the flow of the
same name does. A run is named after its flow run: a flow run that is retried goes on with its own folder.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from cascade.errors import CascadeDistillError
from flows.arms import MAIN, choose_arms
from flows.compare import compare_steps
from flows.context import open_run
from flows.improve import improve_steps
from flows.records import load_decision
from flows.world import open_config


def own_run_id() -> str:
    """Name of the run, as improve-20260301-0300-9f2c1a: flow, minute (UTC) for which it was scheduled, flow run.

    A parameter `run_id` of the flow run goes first.
    """
    given = runtime.flow_run.parameters.get("run_id")
    when = runtime.flow_run.scheduled_start_time
    return given or f"{runtime.flow_run.flow_name}-{when:%Y%m%d-%H%M}-{runtime.flow_run.id[-6:]}"


@flow(name="improve", flow_run_name=own_run_id, persist_result=False)
def improve(config: str, run_id: str | None = None, seed: int | None = None, dry_run: bool = False) -> State[str]:
    """One improvement run on the traces of a configuration; the state says what the gate decided.

    Args:
        config: Path of the YAML settings, as the process that runs the flow sees it.
        run_id: Name of the run; an unfinished run of that name goes on.
        seed: Seed of selection, training and resampling, in place of the file's.
        dry_run: Stop at the decision; change no alias.
    """
    name = run_id or own_run_id()
    try:
        with open_config(Path(config), {} if seed is None else {"seed": seed}) as opened:
            report = improve_steps(opened.config, name, dry_run)
            decided = load_decision(open_run(opened.config.runs / name)).outcome
    except CascadeDistillError as error:  # a sentence for a person: no trace of calls beside it
        return Failed(message=str(error))
    return Completed(message=f"{decided.upper()}: {report}", data=report)


@flow(name="compare", flow_run_name=own_run_id, persist_result=False)
def compare(
    config: str,
    run_id: str | None = None,
    seeds: list[int] = [1],  # noqa: B006 (shown by the server)
    answers: list[int] | None = None,
    arms: list[str] = list(MAIN),  # noqa: B006
) -> str:
    """Targeted against other ways to spend the same flagship answers, on the traces of a configuration.

    Args:
        config: Path of the YAML settings, as the process that runs the flow sees it.
        run_id: Name of the run; an unfinished run of that name goes on.
        seeds: Seeds to repeat the experiment with.
        answers: Numbers of flagship answers; `target.n_answers` alone unless given.
        arms: Names of arms.
    """
    chosen = [arm.name for arm in choose_arms(arms)]
    with open_config(Path(config)) as opened:
        levels = list(answers or [opened.config.target.n_answers])
        return compare_steps(opened.config, run_id or own_run_id(), chosen, list(seeds), levels)
