"""A small lab world and a configuration on it, for tests of the whole loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.config import RunConfig, build_config, merge, read_yaml
from lab.world import LabConfig, World, open_world

ROOT = Path(__file__).parent.parent


@contextmanager
def small_world(folder: Path, seed: int = 11, drifted: int = 2700, **flagship: Any) -> Iterator[World]:
    lab = {
        **read_yaml(ROOT / "configs/demo.yaml")["lab"],
        "seed": seed,
        "folder": folder,
        "traffic": {"early_queries": 450, "drifted_queries": drifted},
    }
    lab["flagship"] = {**lab.get("flagship", {}), **flagship}
    with open_world(LabConfig.model_validate(lab)) as world:
        yield world


def config_values(world: World, folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings of the demo, on this world, with state and runs in `folder`."""
    demo = read_yaml(ROOT / "configs/demo.yaml")
    demo.pop("lab")
    here = {
        "state": str(folder / "state"),
        "runs": str(folder / "runs"),
        "traffic": str(world.traffic_path),
        "prices": str(ROOT / "configs/prices.yaml"),
        "student": {"base_model": str(world.base_model_path)},
        "embed": {"model": str(world.embedder_path)},
        "flagship": {"base_url": world.flagship_url},
        # Half of the demo's traffic or less: targets and margins that so few queries can prove, and the promise alone.
        "serve": {"cold_start_queries": 400},
        "calibration": {"max_error_accepted": 0.06, "max_quality_loss": None},
        "cluster": {"min_cluster_size": 20},
        "target": {"n_answers": 400},
        "training_set": {"min_replay": 0},
        "train": {"epochs": 8},
        "gate": {"quality_margin": 0.05, "cluster_margin": 0.25, "max_false_accept": 0.2},
    }
    return merge(merge(demo, here), changes)


def small_config(world: World, folder: Path, **changes: Any) -> RunConfig:
    return build_config(config_values(world, folder, **changes), "small world")
