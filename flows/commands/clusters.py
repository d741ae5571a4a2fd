"""What escalates, under names that stay: the table and the map of a run's clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.shared import DEMO, Config, opened

Run = Annotated[str | None, typer.Option("--run-id", help="Run to show (default: the newest that has clusters).")]
Picture = Annotated[Path | None, typer.Option("--map", help="Where the map goes (default: clusters.png in the run).")]


def clusters(config: Config = DEMO, run_id: Run = None, picture: Picture = None) -> None:
    """A run's clusters: identity, size, share of cost, state, first seen, causes; and their map as a PNG.

    States: new; persisting; regressed (was solved, escalates again); solved (its queries come and are accepted);
    vanished (its queries no longer come). `causes` says what to do: cheap wrong, distil; right but rejected,
    recalibrate; flagship doubtful, do not train on it; out of scope, keep escalating.
    """
    from flows.context import newest_run, open_run
    from flows.records import CLUSTER
    from flows.run_tables import print_clusters

    with opened(config, start_lab=False) as (settings, _):
        root = settings.runs / run_id if run_id else newest_run(settings.runs, CLUSTER)
        print_clusters(open_run(root), picture)
