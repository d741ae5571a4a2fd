"""The eight weeks' world: settings, prices, and what somebody does to the verifier."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.context import State
    from lab.traffic import Arrivals

NAME = "eight-weeks"
ARRIVE = {3: 4, 6: 3}
DEARER_IN, LENIENT_IN, STRICT_IN = 5, 7, 8
PLANS = {
    3: "4 new product lines",
    DEARER_IN: "flagship's price + 50 %",
    6: "3 new product lines",
    LENIENT_IN: "a lenient verifier",
    STRICT_IN: "a verifier that rejects more",
}


def settings(folder: Path, url: str, seed: int, max_error: float) -> dict[str, Any]:
    """The demo's settings, with a week as the window of a run, another promise of the verifier, and what a second run
    needs: a student that was trained once is sure of itself, and forgets."""
    from flows.config import merge, read_yaml

    root = Path(__file__).parents[1]
    demo = read_yaml(root / "configs" / "demo.yaml")
    demo.pop("lab")
    here = {
        "name": NAME,
        "seed": seed,
        "state": str(folder / "state"),
        "runs": str(folder / "runs"),
        "prices": str(folder / "prices.yaml"),
        "student": {"base_model": str(root / "lab" / "models" / "base")},
        "embed": {"model": str(root / "lab" / "models" / "embedder")},
        "flagship": {"base_url": url},
        "window": {"days": 7, "max_labelled": 3000},  # as in configs/production.yaml; 714 a day do not reach it
        "calibration": {"max_error_accepted": max_error},
        "verifier": {"kind": "learned"},  # its confidence alone tells right from wrong too badly to prove 3 %
        "training_set": {"replay_ratio": 2.0},
        # A run starts when its window, a week, is all of the new traffic; the looks are a day apart, but for seconds.
        "monitor": {"sample": 1000, "improve_after_days": 5.5, "remind_days": 6.5},
    }
    return merge(demo, here)


def write_prices(path: Path, plan: Arrivals) -> None:
    """The lab's prices, the flagship's half as much again from a Monday on."""
    import yaml

    from flows.config import read_yaml
    from flows.rundir import write_text

    values = read_yaml(Path(__file__).parents[1] / "configs" / "prices.yaml")
    rise = (plan.start + timedelta(weeks=DEARER_IN - 1)).date()
    values["prices"]["lab-flagship"] = [
        {"from": plan.start.date(), "input_per_million": 3.0, "output_per_million": 15.0},
        {"from": rise, "input_per_million": 4.5, "output_per_million": 22.5},
    ]
    write_text(path, yaml.safe_dump(values))


def plant(state: State, kind: str, week: int) -> None:
    """Replace the verifier in service by hand: the same model, another threshold.

    The lenient one accepts most of what was rejected last week, the other rejects half of what was accepted.
    """
    import numpy as np

    champion = state.registry.resolve("champion")
    if champion.run_id == f"planted-{week}" or any(v.run_id == f"planted-{week}" for v in state.registry.versions()):
        return
    span = state.traces.span()
    assert span is not None and champion.verifier is not None
    traces = state.traces.between(span.last - timedelta(days=7), None)
    accepted = [t.verdict.score for t in traces if not t.escalated and t.verdict.score is not None]
    rejected = [t.verdict.score for t in traces if t.escalated and t.verdict.score is not None]
    threshold = float(np.quantile(rejected, 0.3) if kind == "lenient" else np.quantile(accepted, 0.5))
    calibration = {**champion.verifier["calibration"], "threshold": threshold, "why": "set by hand"}
    version = state.registry.register(
        name=champion.name,
        base_model=champion.base_model,
        adapter=champion.adapter,
        verifier={**champion.verifier, "calibration": calibration},
        run_id=f"planted-{week}",
        why="a threshold set by hand",
    )
    state.registry.promote(version.id, who="somebody", why="looked better on a few examples")
