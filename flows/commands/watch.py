"""Looking after a cascade in service: monitor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.shared import DEMO, Config, RunId, opened

ALARM = 7
"""Exit status of `monitor --fail-on-alarm`."""


def monitor(
    config: Config = DEMO,
    run_id: RunId = None,
    fail_on_alarm: Annotated[
        bool, typer.Option("--fail-on-alarm", help=f"Exit with status {ALARM} when a check fired.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Tell nobody: no webhook, no block, no event.")] = False,
    metrics_file: Annotated[
        Path | None,
        typer.Option(help="Write Prometheus metrics here too (node-exporter's textfile collector: *.prom)."),
    ] = None,
    serve_metrics: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Keep looking, and serve metrics on this port under /metrics.")
    ] = None,
    every: Annotated[float, typer.Option(min=1, help="With --serve-metrics: seconds between two looks.")] = 3600.0,
    new_reference: Annotated[
        bool, typer.Option("--new-reference", help="Measure the champion anew first: what changed was meant to change.")
    ] = False,
) -> None:
    """Look at the cascade in service: escalation, verifier, cost, prices, quality and drift, against what was promised.

    Compares the traffic since the last promotion with what was measured then, names what is behind an alarm and the
    week in which it began, and writes a dashboard. New alarms go to the webhook in $CASCADE_DISTILL_WEBHOOK, to the
    Prefect block `monitor.notify_block`, and, where a Prefect server is configured, as the event cascade-distill.drift,
    on which an automation starts `improve`. See docs/monitor.md.
    """
    from flows.check_tables import print_watch
    from flows.console import say
    from flows.context import open_run, open_state
    from flows.look import look_once
    from flows.metrics import MetricsServer, write_metrics
    from flows.watching import forget_reference

    with opened(config) as (settings, _):
        state = open_run(settings.runs / run_id).state if run_id else open_state(settings)
        if new_reference:
            forget_reference(state)
        server = None
        try:
            while True:
                done = look_once(settings, state, notify=not quiet)
                print_watch(done)
                if metrics_file is not None:
                    write_metrics(metrics_file, done.watch)
                if serve_metrics is None:
                    break
                if server is None:
                    server = MetricsServer(serve_metrics, done.watch)
                    say(f"metrics: http://localhost:{server.port}/metrics, a look every {every:g} s (Ctrl-C ends)")
                server.show(done.watch)
                time.sleep(every)
        except KeyboardInterrupt:
            pass
        finally:
            if server is not None:
                server.close()
    if fail_on_alarm and done.watch.alarms:
        raise typer.Exit(ALARM)
