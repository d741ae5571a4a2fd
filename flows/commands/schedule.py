"""The loop on its own: serve-flows."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

from flows.commands.shared import DEMO, Config, opened


def serve_flows(
    config: Config = DEMO,
    improve_cron: Annotated[
        str, typer.Option(help="When to improve: minute hour day month weekday, or 'never'.")
    ] = "0 3 * * 1",
    monitor_cron: Annotated[str, typer.Option(help="When to look whether it got worse, or 'never'.")] = "0 6 * * *",
    timezone: Annotated[str, typer.Option(help="Time zone of the schedules.")] = "UTC",
    on_drift: Annotated[
        bool, typer.Option("--on-drift/--no-on-drift", help="Let a drift alarm start an improvement run.")
    ] = True,
    with_server: Annotated[
        bool, typer.Option("--with-server", help="Start a Prefect server of this machine too (PREFECT_HOME).")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of --with-server.")] = 4200,
) -> None:
    """Run the flows of one configuration on their schedules, from this machine, until stopped.

    Needs a Prefect server (PREFECT_API_URL), or starts one with --with-server. A stop leaves the schedules active: what
    comes due meanwhile is run at the next start. Of each flow one run goes at a time; a second one is cancelled.
    """
    from flows.console import say, table
    from flows.deployments import Schedules, build_deployments, local_server, require_server, serve_deployments, times

    with opened(config, start_lab=False) as (settings, _):
        name = settings.name
    improve, monitor = (None if cron == "never" else cron for cron in (improve_cron, monitor_cron))
    when = Schedules(improve=improve, monitor=monitor, timezone=timezone, on_drift=on_drift)
    deployments = build_deployments(config, name, when)
    with local_server(port) if with_server else nullcontext(require_server()) as url:
        rows = [
            {
                "deployment": deployment.full_name,
                "when": times(deployment),
                "also": "when the drift alarm fires" if deployment.triggers else "-",
            }
            for deployment in deployments
        ]
        table(f"Served at {url} (times in {timezone}), one run of each at a time", rows)
        say(f"by hand: prefect deployment run {deployments[0].full_name}    stop: Ctrl-C (the schedules stay)")
        serve_deployments(deployments, url)
