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
    canary: Annotated[
        float | None, typer.Option(min=0.001, max=0.5, help="Share of it for the candidate, which is watched (0.05).")
    ] = None,
) -> None:
    """Serve a traffic file through the cascade and store its traces; what was served before is skipped.

    With --canary the registry's candidate answers a share, and is taken back by itself once it is shown to be worse.
    """
    from flows.canary import replay_canary
    from flows.console import print_canary, print_replay
    from flows.serve import replay_traffic

    with opened(config) as (settings, _):
        path = traffic or settings.traffic
        if path is None:
            raise InputError("no traffic file: name one, or set `traffic` in the configuration")
        if canary is None:
            print_replay(replay_traffic(settings, path))
        else:
            print_canary(replay_canary(settings, path, canary, seed=settings.seed))


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
