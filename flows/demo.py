"""The whole loop on a lab world: serve its traffic, then improve the cascade that served it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cascade.errors import InputError
from flows.config import RunConfig
from flows.context import RunContext, open_run
from flows.improve import improve
from flows.serve import Replay, replay_traffic
from flows.world import open_config, score_clusters

if TYPE_CHECKING:
    from lab.score import ClusterScore


@dataclass(frozen=True, slots=True)
class Demo:
    """A finished demo."""

    served: Replay
    ctx: RunContext
    cluster_score: ClusterScore
    """How well the clusters match what the lab planted."""


@contextmanager
def demo_world(path: Path, run_id: str, seed: int | None) -> Iterator[tuple[RunConfig, Path]]:
    """A lab world with a state folder of its own: a demo never touches another's. Yields settings and traffic."""
    runs = {"seed": seed} if seed is not None else {}
    overrides = {"state": str(Path("runs") / run_id / "state"), **runs}
    with open_config(path, overrides, runs) as opened:
        if opened.lab_traffic is None:
            raise InputError(f"{path} has no `lab` section: use `replay` and `run` on your own traffic")
        yield opened.config, opened.lab_traffic


def improve_in(config: RunConfig, traffic: Path, served: Replay, run_id: str) -> Demo:
    """The improvement run of a demo whose traffic has been served."""
    improve(config, run_id)
    ctx = open_run(config.runs / run_id)
    return Demo(served, ctx, score_clusters(ctx, traffic))


def run_demo(path: Path, run_id: str, seed: int | None) -> Demo:
    """Both halves at once."""
    with demo_world(path, run_id, seed) as (config, traffic):
        return improve_in(config, traffic, replay_traffic(config, traffic), run_id)
