"""What a run has cost: all that it bought, and the compute that trained its candidate."""

from __future__ import annotations

import os

from cascade.cost import PriceTable
from cascade.local import NO_GPU, accelerator_name
from cascade.verifiers.accounts import add_known
from flows.context import RunContext
from flows.records import BASELINE, BUILD, TRAIN


def run_cost(ctx: RunContext) -> float | None:
    """US dollars that the run has cost so far: all that its ledger says it was paid (answers, cluster names, judges; a
    request of unknown usage at its worst case) and training's compute. An arm of an experiment counts its own answers
    and those that all share, and no judge: the ledger does not say for which arm one was asked. None when unknown.
    """
    trained = ctx.run.manifest(ctx.arm_stage(TRAIN)) if ctx.arm.answers == "trained" else None
    if ctx.arm.answers != "trained":
        training: float | None = 0.0
    else:
        training = training_usd(ctx.prices, trained.counts["seconds"]) if trained else None
    if not ctx.experiment:
        return None if training is None else ctx.state.answers.spent_usd(ctx.run.run_id) + training
    bought = (ctx.run.manifest(BASELINE), ctx.run.manifest(ctx.arm_stage(BUILD)))
    return add_known([training, *(m.counts["flagship_cost_usd"] if m else None for m in bought)])


def training_usd(prices: PriceTable, seconds: float) -> float | None:
    """What training costs on this machine: its GPU, or every core that it has."""
    if accelerator_name() != NO_GPU:
        return prices.compute.usd(seconds, "gpu")
    return prices.compute.usd(seconds, "cpu", os.cpu_count() or 1)
