"""Traffic into traces: replay, ingest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cascade.errors import InputError
from flows.commands.shared import DEMO, Config, opened


def replay(
    traffic: Annotated[Path | None, typer.Argument(help="Traffic file (JSONL); default: the configuration's.")] = None,
    config: Config = DEMO,
) -> None:
    """Serve a traffic file through the cascade and store its traces; what was served before is skipped."""
    from flows.console import print_replay
    from flows.serve import replay_traffic

    with opened(config) as (settings, _):
        path = traffic or settings.traffic
        if path is None:
            raise InputError("no traffic file: name one, or set `traffic` in the configuration")
        print_replay(replay_traffic(settings, path))


def ingest(
    log: Annotated[Path, typer.Argument(help="Log of a cascade: one JSON object per line, see docs/data.md.")],
    config: Config = DEMO,
) -> None:
    """Load another cascade's log into the trace store; unusable rows go to a file with their reasons."""
    from cascade.cost import PriceTable
    from cascade.ingest import ingest_log
    from flows.console import say
    from flows.context import open_state

    with opened(config, start_lab=False) as (settings, _):
        state = open_state(settings)
        rejected = state.root / f"{log.stem}.rejected.jsonl"
        done = ingest_log(log, state.traces, PriceTable.from_yaml(settings.prices), rejected)
        say(f"{done.n_new} new traces, {done.n_known} known before, {done.n_rejected} rejected rows")
        if done.n_rejected:
            say(f"rejected rows with their reasons: {done.rejected_path}")
