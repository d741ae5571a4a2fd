"""From a configuration file to a ready RunConfig; a `lab` section is set up first, then forgotten.

The only module of the application that knows the lab: everything behind it sees paths and a URL.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cascade.errors import ConfigError
from flows.config import RunConfig, build_config, merge, read_yaml
from flows.context import RunContext
from flows.records import load_labels
from flows.rundir import read_jsonl

if TYPE_CHECKING:
    from lab.score import ClusterScore

# What the lab fills in, for commands that only look at stores and so need no lab running.
NOT_STARTED: dict[str, Any] = {
    "student": {"base_model": "(lab not started)"},
    "embed": {"model": "(lab not started)"},
    "flagship": {"base_url": "http://127.0.0.1/v1"},
}


@dataclass(frozen=True, slots=True)
class Opened:
    """A validated configuration, and the lab's traffic file where there is a lab."""

    config: RunConfig
    lab_traffic: Path | None


@contextmanager
def open_config(
    path: Path,
    overrides: dict[str, Any] | None = None,
    lab_overrides: dict[str, Any] | None = None,
    *,
    start_lab: bool = True,
) -> Iterator[Opened]:
    """Read a configuration, start its lab when it names one, and stop it at the end."""
    values = merge(read_yaml(path), overrides or {})
    section = values.pop("lab", None)
    if section is None:
        yield Opened(build_config(values, str(path)), None)
    elif not start_lab:
        yield Opened(build_config(merge(NOT_STARTED, values), str(path)), None)
    else:
        with _lab(path, merge(section, lab_overrides or {})) as (found, traffic):
            yield Opened(build_config(merge(found, values), str(path)), traffic)


@contextmanager
def _lab(path: Path, section: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Path]]:
    from lab.flagship import FlagshipError
    from lab.world import LabConfig, open_world

    try:
        config = LabConfig.model_validate(section)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: lab.{where}: {first['msg']} (value seen: {first['input']!r})") from None
    with ExitStack() as stack:
        try:
            world = stack.enter_context(open_world(config))
        except (FileNotFoundError, FlagshipError) as error:
            raise ConfigError(f"the lab world {config.world!r} cannot be opened: {error}") from error
        found = {
            "traffic": str(world.traffic_path),
            "student": {"base_model": str(world.base_model_path)},
            "embed": {"model": str(world.embedder_path)},
            "flagship": {"base_url": world.flagship_url},
        }
        yield found, Path(world.traffic_path)


def score_clusters(ctx: RunContext, traffic: Path) -> ClusterScore:
    """How well a run's clusters match what the lab planted."""
    from lab.score import score_clusters as score

    return score(load_labels(ctx), read_jsonl(traffic))
