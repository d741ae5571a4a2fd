"""The stages that judge: candidate against champion, the gate's decision, the registry."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from cascade.grade import grade, reference_text
from cascade.local import LocalTier
from cascade.trace import Answer, Query
from cascade.verifiers import Verifier
from clustering.describe import assign_to_clusters, exemplar_index
from evaluation.metrics import MetricsConfig
from evaluation.replay import pair_sides
from evaluation.report import EvaluationReport, build_report, report_markdown
from flows.context import RunContext
from flows.records import (
    BASELINE,
    BUILD,
    CLUSTER,
    COLLECT,
    DECIDE,
    EVALUATE,
    PROMOTE,
    TRAIN,
    Arm,
    load_clustering,
    load_clusters,
    load_decision,
    load_report,
    load_traces,
    load_verifier,
    read_answers,
    write_answers,
)
from flows.rundir import Manifest, RunDir, read_json, write_json, write_jsonl, write_text
from flows.stage_parts import embed, input_digests, judging_settings, refit_verifier
from promotion.gate import GateOutcome, decide


def evaluate(ctx: RunContext, arm: Arm = "targeted") -> Manifest:
    """The candidate on calibration and held-out queries, paired with the champion."""

    def body(folder: Path) -> dict[str, Any]:
        champion = read_answers(ctx.run.stage(BASELINE) / "champion.jsonl")
        flagship = read_answers(ctx.run.stage(BASELINE) / "flagship.jsonl")
        queries = {t.query.id: t.query for part in ("calibration", "heldout") for t in load_traces(ctx, part)}
        asked = [query for i, query in queries.items() if i in champion]
        candidate = dict(zip((q.id for q in asked), _candidate_answers(ctx, arm, asked), strict=True))
        write_answers(folder / "candidate.jsonl", candidate)
        verifier = refit_verifier(ctx, candidate, flagship)
        write_json(folder / "verifier.json", verifier.to_dict())
        report, rows = _report(ctx, arm, champion, candidate, flagship, verifier)
        write_jsonl(folder / "pairs.jsonl", rows)
        write_json(folder / "report.json", report.to_dict())
        write_text(folder / "report.md", report_markdown(report))
        return {"heldout": report.n, "threshold": verifier.calibration.why, "as_served": _as_served(ctx, flagship)}

    config = {"arm": arm, "gate_alpha": ctx.config.gate.alpha, "seed": ctx.seed, **judging_settings(ctx)}
    inputs = input_digests(ctx, BASELINE, CLUSTER, ctx.arm_stage(arm, TRAIN))
    return ctx.run.run_stage(ctx.arm_stage(arm, EVALUATE), config, inputs, body)


def _report(
    ctx: RunContext,
    arm: Arm,
    champion: dict[str, Answer],
    candidate: dict[str, Answer],
    flagship: dict[str, Answer],
    verifier: Verifier,
) -> tuple[EvaluationReport, list[dict[str, Any]]]:
    heldout = [t.query for t in load_traces(ctx, "heldout") if t.query.id in champion]
    clusters = _heldout_clusters(ctx, heldout)
    rows = pair_sides(
        heldout,
        champion,
        candidate,
        flagship,
        champion_verifier=load_verifier(ctx.run.stage(BASELINE)),
        candidate_verifier=verifier,
        prices=ctx.prices,
        reference_kind=ctx.config.reference,
        grade_kind=ctx.config.grade,
        clusters=clusters,
    )
    bought = ctx.run.manifest(ctx.arm_stage(arm, BUILD))
    report = build_report(
        rows,
        run_id=ctx.run.run_id,
        champion=ctx.champion().id,
        candidate=f"{ctx.run.run_id}/{arm}",
        reference_kind=ctx.config.reference,
        grade_kind=ctx.config.grade,
        config=MetricsConfig(alpha=ctx.config.gate.spent_alpha, seed=ctx.seed),
        cluster_names={c.id: c.name for c in load_clusters(ctx)},
        heldout_uses=_heldout_uses(ctx),
        run_cost_usd=_run_cost(ctx, bought),
    )
    return report, [asdict(row) for row in rows]


def _as_served(ctx: RunContext, flagship: dict[str, Answer]) -> dict[str, float]:
    """What users got on the held-out slice, by the verdicts of the day: a lenient verifier shows here."""
    traces = [t for t in load_traces(ctx, "heldout") if t.query.id in flagship]
    references = [reference_text(t.query, flagship[t.query.id], ctx.config.reference) for t in traces]
    grades = [grade(t.served_text, r, ctx.config.grade) for t, r in zip(traces, references, strict=True)]
    return {
        "escalation_rate": sum(t.escalated for t in traces) / len(traces),
        "quality": sum(grades) / len(grades),
    }


def _heldout_uses(ctx: RunContext) -> int:
    """Decisions that this held-out slice has served, this one included: a slice wears out with reuse."""
    mine = _heldout_digest(ctx.run)
    others = [RunDir(p.parent) for p in ctx.config.runs.glob("*/run.json") if p.parent != ctx.run.root]
    own_state = str(ctx.config.state)
    return 1 + sum(
        1
        for other in others
        if other.manifest(DECIDE) is not None
        and read_json(other.root / "run.json")["config"]["state"] == own_state
        and _heldout_digest(other) == mine
    )


def _heldout_digest(run: RunDir) -> str | None:
    manifest = run.manifest(COLLECT)
    return manifest.outputs["heldout.jsonl"] if manifest else None


def _run_cost(ctx: RunContext, bought: Manifest | None) -> float | None:
    """What the run paid the flagship: held-out, calibration and training answers."""
    costs = [m.counts["flagship_cost_usd"] if m else None for m in (ctx.run.manifest(BASELINE), bought)]
    known = [float(cost) for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def decision(ctx: RunContext) -> Manifest:
    """Put the report before the gate."""

    def body(folder: Path) -> dict[str, Any]:
        found = decide(load_report(ctx.run.stage(EVALUATE)), ctx.config.gate)
        write_json(folder / "decision.json", found.to_dict())
        return {"outcome": str(found.outcome), "exit_code": found.exit_code}

    return ctx.run.run_stage(DECIDE, {"gate": ctx.config.gate.model_dump()}, input_digests(ctx, EVALUATE), body)


def promote(ctx: RunContext, who: str) -> Manifest:
    """Register the candidate; make it champion if the gate said so, and leave the champion alone if not."""

    def body(_: Path) -> dict[str, Any]:
        found = load_decision(ctx)
        version = register_candidate(ctx)
        registry, run_id = ctx.state.registry, ctx.run.run_id
        if found.outcome is GateOutcome.PROMOTE:
            registry.promote(version, who=who, why="all checks of the gate passed", run_id=run_id)
        else:
            open_checks = ", ".join(f"{check.name}: {check.status}" for check in found.checks if check.status != "pass")
            registry.reject(version, who=who, why=open_checks, run_id=run_id)
        return {"outcome": str(found.outcome), "candidate": version}

    return ctx.run.run_stage(PROMOTE, {"who": who}, input_digests(ctx, DECIDE, EVALUATE, TRAIN), body)


def register_candidate(ctx: RunContext) -> str:
    """Put the run's candidate into the registry (once) and return its version id."""
    evaluated = ctx.run.stage(EVALUATE)
    version = ctx.state.registry.register(
        name=ctx.config.student.name,
        base_model=ctx.config.student.base_model,
        adapter=ctx.run.stage(TRAIN) / "adapter",
        verifier=load_verifier(evaluated).to_dict(),
        report=evaluated / "report.json",
        run_id=ctx.run.run_id,
        why=f"trained by run {ctx.run.run_id}",
    )
    return version.id


def _candidate_answers(ctx: RunContext, arm: Arm, queries: list[Query]) -> list[Answer]:
    adapter = ctx.run.stage(ctx.arm_stage(arm, TRAIN)) / "adapter"
    return LocalTier(ctx.config.student.model_copy(update={"adapter": adapter})).answer(queries)


def _heldout_clusters(ctx: RunContext, queries: list[Query]) -> dict[str, int]:
    """Cluster of each held-out query by its nearest exemplar; queries far from all are left out."""
    clustering, embeddings = load_clustering(ctx)
    labels = assign_to_clusters(embed(ctx, [query.text for query in queries]), exemplar_index(clustering, embeddings))
    return {query.id: int(label) for query, label in zip(queries, labels, strict=True) if label >= 0}
