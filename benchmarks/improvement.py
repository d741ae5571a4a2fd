"""The demo's figures over several seeds: `python -m benchmarks.improvement --seeds 1,2,3`.

Each seed makes its own traffic, clusters, selection, training and resampling. Prints one row per seed.
"""

from __future__ import annotations

import argparse
import os
import time
from datetime import datetime
from pathlib import Path

from flows.cli import ENVIRONMENT


def main() -> None:
    """Run the demo once per seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--seeds", default="1,2,3")
    given = parser.parse_args()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)

    from flows.console import say, table

    rows = [one_seed(given.config, int(seed)) for seed in given.seeds.split(",")]
    table(f"{given.config} over {len(rows)} seeds", rows)
    say(f"made by: python -m benchmarks.improvement --config {given.config} --seeds {given.seeds}")


def one_seed(config: Path, seed: int) -> dict[str, object]:
    """Run the demo with a seed; its figures as one row."""
    from flows.demo import run_demo
    from flows.records import DECIDE, EVALUATE, load_report
    from flows.summary import cut, flagship_cost_per_1000, percent, points, share

    began = time.perf_counter()
    done = run_demo(config, f"bench-{config.stem}-{seed}-{datetime.now():%Y%m%d-%H%M%S}", seed)
    seconds = time.perf_counter() - began
    report = load_report(done.ctx.run.stage(EVALUATE))
    before, after, paired = report.overall.champion, report.overall.candidate, report.overall.paired
    score = done.cluster_score
    decided = done.ctx.run.manifest(DECIDE)
    costs = (before.cost_per_1000_usd, after.cost_per_1000_usd)
    flagship = flagship_cost_per_1000(before)
    return {
        "seed": seed,
        "n": report.n,
        "escalation before": percent(before.escalation_rate),
        "after": percent(after.escalation_rate),
        "relative": cut(paired.escalation_cut),
        "USD / 1,000": " -> ".join("unknown" if c is None else f"{c.value:.4f}" for c in costs),
        "always flagship": "unknown" if flagship is None else f"{flagship:.4f}",
        "quality": points(paired.quality_difference),
        "cluster ARI": "-" if score.adjusted_rand is None else f"{score.adjusted_rand:.3f}",
        "noise": share(score.noise_share),
        "gate": decided.counts["outcome"] if decided else "-",
        "seconds": round(seconds),
    }


if __name__ == "__main__":
    main()
