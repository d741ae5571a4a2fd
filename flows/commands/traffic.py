"""Traffic into traces: replay, ingest."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cascade.errors import InputError
from flows.commands.shared import DEMO, Config, opened

RECORDED_PRICES = Path("configs/prices-recorded.yaml")


def replay(
    traffic: Annotated[Path | None, typer.Argument(help="Traffic file (JSONL); default: the configuration's.")] = None,
    config: Config = DEMO,
    canary: Annotated[
        float | None, typer.Option(min=0.001, max=0.5, help="Share of it for the candidate, which is watched (0.05).")
    ] = None,
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

    With --canary the registry's candidate answers a share, and is taken back by itself once it is shown to be worse.
    With --recorded no model runs: recorded answers of two models are replayed as a cascade, and what each verifier
    costs at a given quality is printed and drawn.
    """
    from flows.canary import replay_canary
    from flows.serve import replay_traffic
    from flows.traffic_tables import print_canary, print_recorded, print_replay

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
        if canary is None:
            print_replay(replay_traffic(settings, path))
        else:
            print_canary(replay_canary(settings, path, canary, seed=settings.seed))


class Format(StrEnum):
    """Formats that `ingest` reads."""

    OPENAI = "openai"
    LITELLM = "litellm"
    LANGFUSE = "langfuse"


def ingest(
    log: Annotated[Path, typer.Argument(help="Log or export of a cascade, see docs/data.md.")],
    config: Config = DEMO,
    log_format: Annotated[Format, typer.Option("--format", help="What wrote it.")] = Format.OPENAI,
    cheap_model: Annotated[
        str | None, typer.Option(help="LiteLLM, Langfuse: the cheap model's name in the log (default: the config's).")
    ] = None,
    flagship_model: Annotated[str | None, typer.Option(help="The same of the flagship.")] = None,
    audit_rate: Annotated[float, typer.Option(help="Share of accepted answers that the log's cascade audits.")] = 0.0,
    routed: Annotated[bool, typer.Option(help="A flagship call alone is a query routed past the cheap model.")] = False,
    settle_minutes: Annotated[
        float, typer.Option(help="How long after one call of a query the other may come in the log.")
    ] = 10.0,
    complete: Annotated[
        bool, typer.Option("--complete", help="The log is final: take the queries of its last minutes as they are.")
    ] = False,
) -> None:
    """Load another cascade's log into the trace store; unusable rows go to a file with their reasons.

    LiteLLM and Langfuse log single calls: a cheap and a flagship call under one trace id are an escalation. A log that
    has grown is read on from where the last reading ended; one that has not adds nothing.
    """
    from cascade.cost import PriceTable
    from cascade.ingest import ingest_log
    from cascade.pairs import CascadeModels
    from flows.context import open_state
    from flows.traffic_tables import print_ingested

    with opened(config, start_lab=False) as (settings, _):
        state = open_state(settings)
        models = CascadeModels(
            cheap=cheap_model or (settings.cheap.price_name if settings.cheap else settings.student.name),
            flagship=flagship_model or settings.flagship.price_name,
            audit_rate=audit_rate,
            routed=routed,
            settle_s=60 * settle_minutes,
        )
        rejected = state.root / f"{log.stem}.rejected.jsonl"
        prices = PriceTable.from_yaml(settings.prices)
        print_ingested(
            ingest_log(log, state.traces, prices, rejected, log_format.value, models, complete=complete, progress=True)
        )
