"""Targeted against untargeted distillation, as a controlled experiment.

Every arm gets the same number of flagship answers, the same replay, the same hyper-parameters, the same number of
training tokens, and a verifier refitted at the same quality target; all are measured on the same held-out queries.
What all arms need (held-out labels, the champion's answers, clusters) is made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from evaluation.report import EvaluationReport
from flows import assess, stages
from flows.config import RunConfig
from flows.context import RunContext, open_run, start_run
from flows.records import BUILD, EVALUATE, TRAIN, Arm, load_report
from flows.rundir import write_json
from flows.summary import cut, percent, points
from promotion.gate import decide

ARMS: tuple[Arm, ...] = get_args(Arm)


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm with one seed."""

    arm: Arm
    seed: int
    answers: int
    """Flagship answers that it trained on."""
    bought: int
    """Of these, answers that had to be paid for; the others were in the traces."""
    train_tokens: int
    report: EvaluationReport
    outcome: str

    def row(self) -> dict[str, Any]:
        """What the table shows."""
        overall = self.report.overall
        return {
            "arm": self.arm,
            "seed": self.seed,
            "answers": f"{self.answers} ({self.bought} bought)",
            "tokens": f"{self.train_tokens:,}",
            "champion": f"{overall.champion.escalation_rate.value:.1%} escalated",
            "candidate": percent(overall.candidate.escalation_rate),
            "escalations": cut(overall.paired.escalation_cut),
            "cost": cut(overall.paired.cost_saving),
            "quality": points(overall.paired.quality_difference),
            "gate": self.outcome,
        }


def prepare(ctx: RunContext) -> None:
    """What all arms share."""
    stages.collect(ctx)
    stages.baseline(ctx)
    stages.cluster(ctx)


def run_arms(ctx: RunContext, seeds: Sequence[int], arms: Sequence[Arm] = ARMS) -> list[ArmResult]:
    """Build, train and evaluate every arm with every seed; finished ones are skipped."""
    results = []
    for seed in seeds:
        seeded = ctx.with_seed(seed)
        n_answers: int | None = None
        token_budget: int | None = None
        for arm in arms:
            # The first arm takes what it finds worth buying and trains for its epochs; the others get as many
            # answers and tokens.
            built = stages.build(seeded, arm, n_answers)
            trained = stages.train(seeded, arm, token_budget)
            n_answers = n_answers or int(built.counts["selected"])
            token_budget = token_budget or int(trained.counts["train_tokens"])
            assess.evaluate(seeded, arm)
            results.append(_result(seeded, arm))
    return results


def _result(ctx: RunContext, arm: Arm) -> ArmResult:
    built, trained = (ctx.run.manifest(ctx.arm_stage(arm, stage)) for stage in (BUILD, TRAIN))
    assert built is not None and trained is not None
    report = load_report(ctx.run.stage(ctx.arm_stage(arm, EVALUATE)))
    return ArmResult(
        arm=arm,
        seed=ctx.seed,
        answers=built.counts["selected"],
        bought=built.counts["flagship_bought"],
        train_tokens=trained.counts["train_tokens"],
        report=report,
        outcome=str(decide(report, ctx.config.gate).outcome),
    )


def read_results(rows: Sequence[dict[str, Any]]) -> list[ArmResult]:
    """Inverse of what comparison.json holds."""
    return [ArmResult(**{**row, "report": EvaluationReport.from_dict(row["report"])}) for row in rows]


def mean_row(results: Sequence[ArmResult]) -> dict[str, Any]:
    """One arm over its seeds: means, and the range of the seeds."""
    savings = [r.report.overall.paired.cost_saving for r in results]
    cuts = [r.report.overall.paired.escalation_cut for r in results]
    return {
        "arm": results[0].arm,
        "seeds": len(results),
        "escalations": _mean_range([c.value for c in cuts if c]),
        "cost": _mean_range([s.value for s in savings if s]),
        "quality": f"{_mean([100 * r.report.overall.paired.quality_difference.value for r in results]):+.2f} points",
        "promoted": f"{sum(r.outcome == 'promote' for r in results)} of {len(results)}",
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_range(savings: Sequence[float]) -> str:
    if not savings:
        return "-"
    low, high = -max(savings), -min(savings)
    return f"{-_mean(savings):+.1%} ({low:+.1%} to {high:+.1%})"


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5)
def prepare_comparison(run_root: str) -> str:
    """What all arms share (buys held-out answers: retried, bought ones are kept)."""
    prepare(_context(run_root))
    return run_root


@task(cache_policy=NO_CACHE)
def compare_arms(run_root: str, seeds: list[int]) -> list[dict[str, Any]]:
    """All arms with all seeds, written to comparison.json and shown as a table."""
    ctx = _context(run_root)
    results = run_arms(ctx, seeds)
    rows = [result.row() for result in results]
    write_json(ctx.run.root / "comparison.json", [{**asdict(r), "report": r.report.to_dict()} for r in results])
    create_table_artifact(key="comparison", table=rows, description="Targeted against untargeted")
    return rows


def compare_steps(config: RunConfig, run_id: str, seeds: list[int]) -> str:
    """What the flow does, for any flow that has a configuration ready. Returns the run's folder."""
    root = str(start_run(config, run_id).run.root)
    prepare_comparison(root)
    compare_arms(root, seeds)
    return root


@flow(name="compare", flow_run_name="{run_id}", persist_result=False)
def compare(config: RunConfig, run_id: str, seeds: list[int]) -> str:
    """Run the comparison, or the rest of an interrupted one. Returns the run's folder."""
    return compare_steps(config, run_id, seeds)


def _context(run_root: str) -> RunContext:
    return replace(open_run(Path(run_root)), own_arm="")
