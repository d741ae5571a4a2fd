"""What several commands share: their common options, an opened configuration, names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from flows.config import RunConfig

Config = Annotated[Path, typer.Option("--config", "-c", help="YAML settings of the cascade and the run.")]
Seed = Annotated[int | None, typer.Option(help="Seed of selection, training and resampling (default: the file's).")]
RunId = Annotated[
    str | None, typer.Option("--run-id", help="Name of the run; an interrupted run of that name goes on.")
]
DEMO = Path("configs/demo.yaml")


@contextmanager
def opened(
    path: Path,
    seed: int | None = None,
    overrides: dict[str, Any] | None = None,
    start_lab: bool = True,
) -> Iterator[tuple[RunConfig, Path | None]]:
    from flows.world import open_config

    values = {**(overrides or {}), **({"seed": seed} if seed is not None else {})}
    with open_config(path, values, start_lab=start_lab) as opened:
        yield opened.config, opened.lab_traffic


def state_of(config: Path, run_id: str | None) -> Any:
    """The configuration's stores, or a demo run's own."""
    from flows.context import open_run, open_state

    with opened(config, start_lab=False) as (settings, _):
        return open_run(settings.runs / run_id).state if run_id else open_state(settings)


def new_id(kind: str) -> str:
    return f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"


def user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except OSError:
        return "unknown"
