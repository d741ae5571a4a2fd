"""Traffic into traces: replay, ingest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cascade.errors import InputError
from flows.commands.shared import DEMO, Config, opened

RECORDED_PRICES = Path("configs/prices-recorded.yaml")


def replay(
    traffic: Annotated[Path | None, typer.Argument(help="Traffic file (JSONL); default: the configuration's.")] = None,
    config: Config = DEMO,
    recorded: Annotated[
        Path | None,
        typer.Option(help="Recorded answers (JSONL or a folder, docs/data.md): print their cost-quality frontier."),
    ] = None,
    cheap: Annotated[str | None, typer.Option(help="Recorded model that answers first.")] = None,
    flagship: Annotated[str | None, typer.Option(help="Recorded model that answers what escalates.")] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help="Recorded model that a verifier may ask for agreement; repeat for more.")
    ] = None,
    verifier: Annotated[
        str, typer.Option(help="auto, rules, arithmetic, brevity, peers, learned: which may judge the cheap answers.")
    ] = "auto",
    router: Annotated[bool, typer.Option(help="Let a router send hard queries straight to the flagship.")] = False,
    quality: Annotated[float, typer.Option(help="Share of the flagship's quality to reach.")] = 0.95,
    prices: Annotated[Path, typer.Option(help="Price table of the recorded models.")] = RECORDED_PRICES,
    embedder: Annotated[
        str | None, typer.Option(help="sentence-transformers folder or hub name, for router and learned verifier.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for picture, figures and traces.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split and of what is learned.")] = 0,
) -> None:
    """Serve a traffic file through the cascade and store its traces; what was served before is skipped.

    With --recorded no model runs: recorded answers of two models are replayed as a cascade, and what each verifier
    costs at a given quality is printed and drawn.
    """
    from flows.console import print_recorded, print_replay
    from flows.serve import replay_traffic

    if recorded is not None:
        from cascade.cost import PriceTable
        from flows.recorded import RecordedSettings, replay_recorded

        if cheap is None or flagship is None:
            raise InputError("--recorded needs --cheap and --flagship: name two of the recorded models")
        settings_of = RecordedSettings(cheap, flagship, tuple(peer or ()), verifier, router, quality, seed)
        folder = out or Path("runs") / "recorded" / recorded.stem
        print_recorded(replay_recorded(recorded, settings_of, PriceTable.from_yaml(prices), folder, embedder))
        return
    if cheap is not None or flagship is not None or peer:
        raise InputError("--cheap, --flagship and --peer name recorded models: give their file with --recorded")
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
