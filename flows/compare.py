"""Targeted against untargeted distillation, as a controlled experiment.

Every arm gets the same number of flagship answers, the same replay, the same hyper-parameters, the same number of
training tokens, and a verifier refitted at the same quality target; all are measured on the same held-out queries.
What all arms need (held-out labels, the champion's answers, clusters) is made once, and an answer is bought once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from tqdm import tqdm

from flows import assess, stages
from flows.arms import Arm, choose_arms
from flows.comparison import ArmResult, figures, result_of, write_comparison
from flows.comparison_tables import rows_of
from flows.config import RunConfig
from flows.context import RunContext, open_run, start_run


def prepare(ctx: RunContext) -> None:
    """What all arms share."""
    stages.collect(ctx)
    stages.baseline(ctx)
    stages.cluster(ctx)


def run_arms(ctx: RunContext, arms: Sequence[Arm], seeds: Sequence[int], answers: Sequence[int]) -> list[ArmResult]:
    """Build, train and evaluate every arm with every seed and number of answers; finished ones are skipped. The first
    arm takes what it finds worth buying and trains for its epochs; the others get as many answers and tokens."""
    results = []
    with tqdm(total=len(arms) * len(seeds) * len(answers), desc="compare", unit="arm") as bar:
        for n_answers in answers:
            for seed in seeds:
                results += _run_group(ctx, arms, seed, n_answers, bar)
    return results


def _run_group(ctx: RunContext, arms: Sequence[Arm], seed: int, n_answers: int, bar: tqdm[Any]) -> list[ArmResult]:
    results: list[ArmResult] = []
    token_budget: int | None = None
    n_selected = n_answers
    for arm in arms:
        bar.set_postfix_str(f"{arm.name}, {n_answers:,} answers, seed {seed}")
        own = replace(ctx.for_arm(arm, seed, n_selected), level=n_answers)
        built = stages.build(own)
        if arm.answers == "trained":
            trained = stages.train(own, token_budget)
            token_budget = token_budget or int(trained.counts["train_tokens"])
        n_selected = min(n_selected, int(built.counts["selected"])) if not results else n_selected
        assess.evaluate(own)
        results.append(result_of(own))
        bar.update()
    return results


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5)
def prepare_comparison(run_root: str) -> str:
    """What all arms share (buys held-out answers: retried, bought ones are kept)."""
    prepare(_context(run_root))
    return run_root


@task(cache_policy=NO_CACHE)
def compare_arms(run_root: str, arms: list[str], seeds: list[int], answers: list[int]) -> list[dict[str, Any]]:
    """All arms with all seeds and numbers of answers, written to comparison.json and comparison.html."""
    ctx = _context(run_root)
    results = run_arms(ctx, choose_arms(arms), seeds, answers)
    write_comparison(ctx, results)
    rows = rows_of(figures(results, held=ctx.config.compare_at_quality))
    create_table_artifact(key="comparison", table=rows, description="Targeted against untargeted")
    return rows


def compare_steps(config: RunConfig, run_id: str, arms: list[str], seeds: list[int], answers: list[int]) -> str:
    """What the flow does, for any flow that has a configuration ready. Returns the run's folder."""
    root = str(start_run(config, run_id).run.root)
    prepare_comparison(root)
    compare_arms(root, arms, seeds, answers)
    return root


@flow(name="compare", flow_run_name="{run_id}", persist_result=False)
def compare(config: RunConfig, run_id: str, arms: list[str], seeds: list[int], answers: list[int]) -> str:
    """Run the comparison, or the rest of an interrupted one. Returns the run's folder."""
    return compare_steps(config, run_id, arms, seeds, answers)


def _context(run_root: str) -> RunContext:
    return replace(open_run(Path(run_root)), experiment=True)
