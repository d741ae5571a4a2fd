"""The command line: `cascade-distill --help`.

Exit status: 0 done (and, of `run`, promoted), 2 a message for the user, 3 the gate rejected, 4 the gate could not tell.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade.errors import CascadeDistillError, InputError

if TYPE_CHECKING:
    from flows.config import RunConfig
    from flows.context import RunContext

app = typer.Typer(
    help="Closes the loop on an LLM cascade: escalations, clusters, targeted answers, LoRA, gate, promotion.\n\n"
    "First time here? `cascade-distill demo` runs the whole loop on an embedded world, without a key or a GPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Config = Annotated[Path, typer.Option("--config", "-c", help="YAML settings of the cascade and the run.")]
Seed = Annotated[int | None, typer.Option(help="Seed of selection, training and resampling (default: the file's).")]
RunId = Annotated[
    str | None, typer.Option("--run-id", help="Name of the run; an interrupted run of that name goes on.")
]
DEMO = Path("configs/demo.yaml")
ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # The stages' progress bars and tables are what the user reads.
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # Torch's threads wait without spinning: on a busy machine spinning costs most of the speed.
    "OMP_WAIT_POLICY": "passive",
    # A temporary server on a busy machine needs longer than the default of 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # transformers warns itself of an attribute that it renamed; for the training process.
    "PYTHONWARNINGS": "ignore::FutureWarning:transformers.modeling_utils",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Defaults of the process; what the user has set stays."""


@app.command()
def demo(
    config: Config = DEMO,
    seed: Annotated[int | None, typer.Option(help="Seed of the lab's traffic and of the run.")] = None,
    run_id: RunId = None,
) -> None:
    """Run the whole loop on a lab world: traffic, escalations, clusters, LoRA, evaluation, decision."""
    from flows.console import print_replay, print_run, say
    from flows.demo import demo_world, improve_in
    from flows.serve import replay_traffic
    from flows.summary import share

    run_id = run_id or _new_id("demo")
    with demo_world(config, run_id, seed) as (settings, traffic):
        say("1/2 serving the traffic through the cascade as it is")
        served = replay_traffic(settings, traffic)
        print_replay(served)
        say("2/2 improving it: collect, cluster, build, train, evaluate, decide")
        done = improve_in(settings, traffic, served, run_id)
    print_run(done.ctx)
    score = done.cluster_score
    rand = "unknown" if score.adjusted_rand is None else f"{score.adjusted_rand:.3f}"
    say(f"clusters against the planted skills: adjusted Rand index {rand} (noise apart: {share(score.noise_share)})")


@app.command()
def replay(
    traffic: Annotated[Path | None, typer.Argument(help="Traffic file (JSONL); default: the configuration's.")] = None,
    config: Config = DEMO,
) -> None:
    """Serve a traffic file through the cascade and store its traces; what was served before is skipped."""
    from flows.console import print_replay
    from flows.serve import replay_traffic

    with _opened(config) as (settings, _):
        path = traffic or settings.traffic
        if path is None:
            raise InputError("no traffic file: name one, or set `traffic` in the configuration")
        print_replay(replay_traffic(settings, path))


@app.command()
def ingest(
    log: Annotated[Path, typer.Argument(help="Log of a cascade: one JSON object per line, see docs/data.md.")],
    config: Config = DEMO,
) -> None:
    """Load another cascade's log into the trace store; unusable rows go to a file with their reasons."""
    from cascade.cost import PriceTable
    from cascade.ingest import ingest_log
    from flows.console import say
    from flows.context import open_state

    with _opened(config, start_lab=False) as (settings, _):
        state = open_state(settings)
        rejected = state.root / f"{log.stem}.rejected.jsonl"
        done = ingest_log(log, state.traces, PriceTable.from_yaml(settings.prices), rejected)
        say(f"{done.n_new} new traces, {done.n_known} known before, {done.n_rejected} rejected rows")
        if done.n_rejected:
            say(f"rejected rows with their reasons: {done.rejected_path}")


@app.command()
def run(
    config: Config = DEMO,
    run_id: RunId = None,
    seed: Seed = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop at the decision; change no alias.")] = False,
) -> None:
    """One improvement run on the stored traces: collect, cluster, build, train, evaluate, decide, promote."""
    from flows.console import print_run
    from flows.records import load_decision

    with _opened(config, seed) as (settings, _):
        ctx = _improve(settings, run_id or _new_id("run"), dry_run)
        print_run(ctx)
    raise typer.Exit(load_decision(ctx).exit_code)


@app.command()
def compare(
    config: Config = DEMO,
    run_id: RunId = None,
    seeds: Annotated[str, typer.Option(help="Seeds to repeat the experiment with, as 1,2,3.")] = "1",
) -> None:
    """Targeted, untargeted and random-within-escalated distillation at equal answers and training tokens."""
    from flows.compare import compare as compare_flow
    from flows.console import print_comparison, print_replay
    from flows.rundir import read_json
    from flows.serve import replay_traffic

    chosen = _seeds(seeds)
    with _opened(config) as (settings, traffic):
        if traffic is not None:
            print_replay(replay_traffic(settings, traffic))
        root = Path(compare_flow(settings, run_id or _new_id("compare"), chosen))
    print_comparison(read_json(root / "comparison.json"), root)


@app.command()
def report(run_id: Annotated[str, typer.Argument(help="The run to report on.")], config: Config = DEMO) -> None:
    """Write a run's HTML report again, print its tables and the report's path."""
    from flows.console import print_run
    from flows.context import open_run
    from flows.report import write_report

    with _opened(config, start_lab=False) as (settings, _):
        ctx = open_run(settings.runs / run_id)
        write_report(ctx)
        print_run(ctx)


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="Version id, as `status` shows it.")],
    why: Annotated[str, typer.Option(help="Reason, kept in the history.")],
    config: Config = DEMO,
    run_id: RunId = None,
) -> None:
    """Make a registered version the champion by hand; the champion becomes the previous one."""
    from flows.console import say

    state = _state(config, run_id)
    promoted = state.registry.promote(version, who=_user(), why=why)
    say(f"champion is {promoted.id}; `rollback` restores the one before")


@app.command()
def rollback(
    why: Annotated[str, typer.Option(help="Reason, kept in the history.")] = "rolled back by hand",
    config: Config = DEMO,
    run_id: RunId = None,
) -> None:
    """Make the previous version the champion again."""
    from flows.console import say

    champion = _state(config, run_id).registry.rollback(who=_user(), why=why)
    say(f"champion is {champion.id} again")


@app.command()
def status(config: Config = DEMO, run_id: RunId = None) -> None:
    """Champion, versions, history and runs."""
    from flows.console import print_status

    with _opened(config, start_lab=False) as (settings, _):
        print_status(_state(config, run_id), settings.runs)


@app.command()
def doctor(config: Config = DEMO) -> None:
    """Check what a run needs (packages, models, endpoint, key, prices, folders) before money is spent."""
    from flows.console import print_checks
    from flows.doctor import check_all

    with _opened(config) as (settings, _):
        checks = check_all(settings)
    print_checks(checks)
    raise typer.Exit(0 if all(check.ok for check in checks) else 2)


def main() -> None:
    """Entry point: a message for the user is one line and exit status 2."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        app()
    except CascadeDistillError as error:
        print(f"cascade-distill: {error}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def _opened(
    path: Path,
    seed: int | None = None,
    overrides: dict[str, Any] | None = None,
    start_lab: bool = True,
) -> Iterator[tuple[RunConfig, Path | None]]:
    from flows.world import open_config

    values = {**(overrides or {}), **({"seed": seed} if seed is not None else {})}
    with open_config(path, values, start_lab=start_lab) as opened:
        yield opened.config, opened.lab_traffic


def _state(config: Path, run_id: str | None) -> Any:
    """The configuration's stores, or a demo run's own."""
    from flows.context import open_run, open_state

    with _opened(config, start_lab=False) as (settings, _):
        return open_run(settings.runs / run_id).state if run_id else open_state(settings)


def _improve(settings: RunConfig, run_id: str, dry_run: bool) -> RunContext:
    from flows.context import open_run
    from flows.improve import improve

    improve(settings, run_id, dry_run)
    return open_run(settings.runs / run_id)


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--seeds is {text!r}: give whole numbers with commas, as 1,2,3") from None
    return list(dict.fromkeys(seeds))


def _new_id(kind: str) -> str:
    return f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except OSError:
        return "unknown"


if __name__ == "__main__":
    main()
