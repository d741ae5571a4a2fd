"""Before money is spent: doctor, plan."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.shared import DEMO, Config, RunId, opened


def doctor(config: Config = DEMO) -> None:
    """Check what a run needs (packages, models, endpoint, key, prices, folders) before money is spent."""
    from flows.check_tables import print_checks
    from flows.doctor import check_all

    with opened(config) as (settings, _):
        checks = check_all(settings)
    print_checks(checks)
    raise typer.Exit(0 if all(check.ok for check in checks) else 2)


def plan(
    config: Config = DEMO,
    run_id: RunId = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also what `compare` would buy.")] = False,
) -> None:
    """What a run on the stored traces would cost and take: counted from the stores, asking no model.

    With --run-id: a run on the state that this run used, as a demo leaves it.
    """
    from flows.context import open_run, open_state
    from flows.plan import plan_run
    from flows.plan_tables import print_plan

    with opened(config, start_lab=False) as (settings, _):
        if run_id is None:
            print_plan(plan_run(settings, open_state(settings)), compare)
        else:
            ctx = open_run(settings.runs / run_id)
            print_plan(plan_run(ctx.config, ctx.state), compare)
