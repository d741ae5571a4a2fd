"""The loop on a local Ray cluster beside the loop in one process: the same clusters, the same decision?

Both start from one state: half of the demo's traffic, served once. Shards are small, so that there are many of them.

    .venv/bin/python -m benchmarks.ray_loop
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from flows.cli import ENVIRONMENT

QUERIES = {"early_queries": 450, "drifted_queries": 2700}
SETTINGS: dict[str, Any] = {
    # As in the tests of the loop: targets and margins that half of the demo's traffic can prove.
    "serve": {"cold_start_queries": 400},
    "calibration": {"max_error_accepted": 0.06},
    "cluster": {"min_cluster_size": 20},
    "target": {"n_answers": 400},
    "gate": {"quality_margin": 0.05, "cluster_margin": 0.25, "max_false_accept": 0.2},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=11, help="seed of the traffic")
    parser.add_argument("--workers", type=int, default=2, help="CPUs of the Ray cluster")
    parser.add_argument("--texts", type=int, default=200, help="texts to a shard")
    parser.add_argument("--queries", type=int, default=400, help="queries to a shard")
    asked = parser.parse_args()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray = {"kind": "ray", "workers": asked.workers, "shard_texts": asked.texts, "shard_queries": asked.queries}
    with tempfile.TemporaryDirectory() as folder:
        _compare(Path(folder), asked.seed, {"threads": {"kind": "threads"}, "ray": ray})


def _compare(folder: Path, seed: int, runners: dict[str, dict[str, Any]]) -> None:
    from flows.config import RunnerConfig
    from flows.console import say, table
    from flows.serve import replay_traffic
    from flows.world import open_config

    here = {"state": str(folder / "served"), "runs": str(folder / "runs"), **SETTINGS}
    lab = {"seed": seed, "traffic": QUERIES, "folder": str(folder / "lab")}
    with open_config(Path("configs/demo.yaml"), here, lab) as opened:
        assert opened.lab_traffic is not None
        replay_traffic(opened.config, opened.lab_traffic)
        found = {}
        for name, runner in runners.items():
            shutil.copytree(folder / "served", folder / name)
            update = {"state": folder / name, "runner": RunnerConfig.model_validate(runner)}
            found[name] = _run(opened.config.model_copy(update=update), name)
    table("The loop, and where its sharded stages ran", [row for row, _ in found.values()])
    one, other = (kept for _, kept in found.values())
    for what in one:
        say(f"{what}: {'equal' if one[what] == other[what] else 'DIFFERENT'}")


def _run(config: Any, run_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The table's row, and what must be equal."""
    from flows import assess, stages
    from flows.context import start_run
    from flows.records import BASELINE, EVALUATE, load_clusters, load_decision, load_labels, load_report, read_answers

    ctx = start_run(config, run_id)
    started = time.perf_counter()
    for stage in (stages.collect, stages.baseline, stages.cluster, stages.build, stages.train):
        stage(ctx)
    assess.evaluate(ctx)
    assess.decision(ctx)
    seconds = time.perf_counter() - started
    report, decision = load_report(ctx.run.stage(EVALUATE)).overall, load_decision(ctx)
    answers = read_answers(ctx.run.stage(BASELINE) / "champion.jsonl")
    candidate = read_answers(ctx.run.stage(EVALUATE) / "candidate.jsonl")
    shards = (
        len(list((ctx.run.root / "shards").rglob("shard-*.npy"))),
        len(list(ctx.run.root.rglob("answers-0*.jsonl"))),
    )
    row = {
        "runner": config.runner.kind,
        "shards: texts, queries": f"{shards[0]}, {shards[1]}",
        "clusters": len(load_clusters(ctx)),
        "escalated before": f"{report.champion.escalation_rate.value:.2%}",
        "after": f"{report.candidate.escalation_rate.value:.2%}",
        "decision": str(decision.outcome),
        "seconds": f"{seconds:.0f}",
    }
    same = {
        "cluster of every escalation": load_labels(ctx),
        "champion's answers": {i: answer.text for i, answer in answers.items()},
        "candidate's answers": {i: answer.text for i, answer in candidate.items()},
        "escalation before and after": (row["escalated before"], row["after"]),
        "decision, with every check's status": (row["decision"], [(c.name, str(c.status)) for c in decision.checks]),
    }
    return row, same


if __name__ == "__main__":
    main()
