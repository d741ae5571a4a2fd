"""The stages that judge: candidate against champion, the gate's decision, the registry."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cascade.grade import grade, reference_text
from cascade.trace import Answer, Query, Verdict
from clustering.describe import assign_to_clusters, exemplar_index
from evaluation.audit import audit_slice
from evaluation.inputs import ReportInputs
from evaluation.judge import JudgedDifference, ServedPair, judge_pairs
from evaluation.metrics import MetricsConfig
from evaluation.page import report_html
from evaluation.replay import PairedRow, Side, pair_sides, paired_row_to_dict
from evaluation.report import report_markdown
from flows.context import RunContext
from flows.deploy import promote_version
from flows.records import (
    BASELINE,
    BUILD,
    CLUSTER,
    COLLECT,
    DECIDE,
    EVALUATE,
    PROMOTE,
    TRAIN,
    load_approval,
    load_clustering,
    load_clusters,
    load_decision,
    load_report,
    load_solved,
    load_traces,
    load_verdicts,
    read_answers,
    write_answers,
)
from flows.run_cost import run_cost
from flows.rundir import Manifest, RunDir, digest_file, digest_json, read_json, write_json, write_jsonl, write_text
from flows.stage_parts import (
    cheap_toolbox,
    embed,
    input_digests,
    judge_all,
    judging_settings,
    refit_verifier,
    student_answers,
)
from flows.verifying import Recalled, account_rows, answer_bank, describe, embedder, keep
from promotion.approval import Word, needs_word
from promotion.card import CardFacts, model_card
from promotion.gate import GateOutcome, decide
from promotion.versions import Lineage


def evaluate(ctx: RunContext) -> Manifest:
    """The candidate on calibration and held-out queries, paired with the champion."""

    def body(folder: Path) -> dict[str, Any]:
        champion = read_answers(ctx.run.stage(BASELINE) / "champion.jsonl")
        flagship = read_answers(ctx.run.stage(BASELINE) / "flagship.jsonl")
        queries = {t.query.id: t.query for part in ("calibration", "heldout") for t in load_traces(ctx, part)}
        asked = [query for i, query in queries.items() if i in champion]
        known = known_to_the_verifier(ctx)
        candidate = candidate_answers(ctx, asked, champion, known)
        write_answers(folder / "candidate.jsonl", candidate)
        tools = cheap_toolbox(ctx, _candidate_adapter(ctx))
        surest = read_answers(ctx.run.stage(BASELINE) / "surest.jsonl")
        verifier = refit_verifier(ctx, candidate, flagship, known, surest, tools, _quality_floor(ctx))
        write_json(folder / "verifier.json", keep(verifier, tools))
        heldout = [t.query for t in load_traces(ctx, "heldout") if t.query.id in champion]
        verdicts = judge_all(verifier, heldout, candidate)
        write_jsonl(folder / "verdicts.jsonl", ({"id": i, **asdict(verdict)} for i, verdict in verdicts.items()))
        rows = pair_heldout(ctx, heldout, champion, candidate, flagship, verdicts)
        inputs = report_inputs(ctx, rows, {query.id: query for query in heldout})
        report = inputs.build(rows)
        write_jsonl(folder / "pairs.jsonl", (paired_row_to_dict(row) for row in rows))
        write_json(folder / "inputs.json", inputs.to_dict())
        write_json(folder / "report.json", report.to_dict())
        write_text(folder / "report.md", report_markdown(report))
        write_text(folder / "report.html", report_html(report))
        return {
            "heldout": report.n,
            **describe(verifier),
            "accounts": account_rows(verdicts.values()),
            "as_served": _as_served(ctx, flagship),
        }

    gate, judge = ctx.config.gate, ctx.config.preference_judge
    config = {
        "arm": ctx.arm.name,
        "answers": ctx.arm.answers,
        "gate_alpha": [gate.alpha, gate.heldout_decisions],
        "seed": ctx.seed,
        "judge": None if judge is None else judge.model,
        **judging_settings(ctx),
    }
    last = TRAIN if ctx.arm.answers == "trained" else BUILD
    inputs = input_digests(ctx, BASELINE, CLUSTER, *dict.fromkeys((ctx.arm_stage(BUILD), ctx.arm_stage(last))))
    return ctx.run.run_stage(ctx.arm_stage(EVALUATE), config, inputs, body)


def _quality_floor(ctx: RunContext) -> float | None:
    """Share of right answers that the candidate's cascade must serve on the calibration part. None for an experiment:
    its arms are compared at one quality anyway, and as the promise alone would have them."""
    loss = ctx.config.calibration.max_quality_loss
    if loss is None or ctx.experiment:
        return None
    served = read_json(ctx.run.stage(BASELINE) / "verifier.json")["calibration"].get("served_right")
    return None if served is None else served - loss


def pair_heldout(
    ctx: RunContext,
    heldout: list[Query],
    champion: dict[str, Answer],
    candidate: dict[str, Answer],
    flagship: dict[str, Answer],
    verdicts: dict[str, Verdict],
) -> list[PairedRow]:
    """Both sides on these queries, the champion by the verdicts of its baseline, the candidate by these."""
    return pair_sides(
        heldout,
        champion,
        candidate,
        flagship,
        champion_verifier=Recalled(load_verdicts(ctx.run.stage(BASELINE))),
        candidate_verifier=Recalled(verdicts),
        prices=ctx.prices,
        reference_kind=ctx.config.reference,
        grade_kind=ctx.config.grade,
        clusters=_heldout_clusters(ctx, heldout),
    )


def report_inputs(ctx: RunContext, rows: list[PairedRow], queries: dict[str, Query]) -> ReportInputs:
    """All that the report rests on besides the rows: kept beside it, so that `verify` can make it again."""
    uses = _heldout_uses(ctx)
    alpha = ctx.config.gate.alpha_at(uses)
    judged = _judged(ctx, rows, queries, 1 - 2 * alpha)  # before the run's cost, of which it is a part
    traces = [trace for part in ("pool", "calibration", "heldout") for trace in load_traces(ctx, part)]
    return ReportInputs(
        run_id=ctx.run.run_id,
        champion=ctx.champion().id,
        candidate=f"{ctx.run.run_id}/{ctx.arm.name}",
        reference_kind=ctx.config.reference,
        grade_kind=ctx.config.grade,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=MetricsConfig(alpha=alpha, seed=ctx.seed),
        cluster_names={c.id: c.name for c in load_clusters(ctx)},
        heldout_uses=uses,
        run_cost_usd=run_cost(ctx),
        solved=tuple(load_solved(ctx)),
        audit=audit_slice(
            traces,
            ctx.champion_id,
            grade_kind=ctx.config.grade,
            reference_kind=ctx.config.reference,
            confidence=1 - 2 * alpha,
        ),
        judged=judged,
    )


def _judged(
    ctx: RunContext, rows: list[PairedRow], queries: dict[str, Query], confidence: float
) -> JudgedDifference | None:
    """The pairwise judge's preferences between what the two sides served; None without a judge."""
    buyer = ctx.judge_buyer()
    if buyer is None:
        return None

    def served(row: PairedRow, side: Side) -> str:
        return side.answer.text if side.accepted else row.flagship.text

    pairs = [ServedPair(queries[r.query_id], served(r, r.champion), served(r, r.candidate)) for r in rows]
    return judge_pairs(pairs, buyer, confidence)[0]


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


def decision(ctx: RunContext) -> Manifest:
    """Put the report before the gate."""

    def body(folder: Path) -> dict[str, Any]:
        found = decide(load_report(ctx.run.stage(EVALUATE)), ctx.config.gate)
        write_json(folder / "decision.json", found.to_dict())
        return {"outcome": str(found.outcome), "exit_code": found.exit_code}

    return ctx.run.run_stage(DECIDE, {"gate": ctx.config.gate.model_dump()}, input_digests(ctx, EVALUATE), body)


def awaits_word(ctx: RunContext) -> bool:
    """Whether the run's candidate passed the gate and waits for a person's word."""
    return needs_word(load_decision(ctx), ctx.config.gate) and load_approval(ctx) is None


def promote(ctx: RunContext, who: str) -> Manifest | None:
    """Register the candidate; make it champion if gate and person said so, and leave the champion alone if not.

    None, with the candidate registered and nothing else changed, while the candidate waits for a person's word.
    Raises PromotionConflict when the champion is no longer the one that the run measured against, RolloutError when
    the fleet could not be brought to the candidate: the champion serves on in both cases.
    """
    if awaits_word(ctx):
        register_candidate(ctx)
        return None
    word = load_approval(ctx) if needs_word(load_decision(ctx), ctx.config.gate) else None

    def body(_: Path) -> dict[str, Any]:
        found = load_decision(ctx)
        version = register_candidate(ctx)
        registry, run_id = ctx.state.registry, ctx.run.run_id
        if word is not None and word.word is Word.REJECT:
            registry.reject(version, who=word.who, why=f"rejected by {word.who}: {word.why}", run_id=run_id)
        elif found.outcome is GateOutcome.PROMOTE:
            why = "all checks of the gate passed"
            why += "" if word is None else f"; approved by {word.who}: {word.why}"
            speaker = word.who if word else who
            promote_version(
                ctx.config, ctx.state, version, who=speaker, why=why, run_id=run_id, measured_against=ctx.champion_id
            )
        else:
            open_checks = ", ".join(f"{check.name}: {check.status}" for check in found.checks if check.status != "pass")
            registry.reject(version, who=who, why=open_checks, run_id=run_id)
        promoted = registry.aliases().get("champion") == version
        return {"outcome": str(found.outcome), "candidate": version, "promoted": promoted}

    config = {"who": who, "word": None if word is None else word.to_dict()}
    return ctx.run.run_stage(PROMOTE, config, input_digests(ctx, DECIDE, EVALUATE, TRAIN), body)


def register_candidate(ctx: RunContext) -> str:
    """Put the run's candidate into the registry (once), with lineage and card, and return its version id."""
    evaluated = ctx.run.stage(EVALUATE)
    facts = _card_facts(ctx)
    version = ctx.state.registry.register(
        name=ctx.config.student.name,
        base_model=ctx.config.student.base_model,
        adapter=ctx.run.stage(TRAIN) / "adapter",
        verifier=read_json(evaluated / "verifier.json"),
        report=evaluated / "report.json",
        run_id=ctx.run.run_id,
        lineage=facts.lineage,
        card=lambda version: model_card(version, facts),
        why=f"trained by run {ctx.run.run_id}",
    )
    return version.id


def _card_facts(ctx: RunContext) -> CardFacts:
    built, trained = ctx.run.manifest(BUILD), ctx.run.manifest(TRAIN)
    counts = {**(built.counts if built else {}), **(trained.counts if trained else {})}
    plain = {name: value for name, value in counts.items() if isinstance(value, int | float)}
    return CardFacts(
        lineage=Lineage(
            data_digest=digest_json(built.outputs) if built else None,
            code_commit=trained.commit if trained else None,
            base_revision=ctx.config.student.revision,
            config_digest=digest_json(ctx.config.dump()),
            report_digest=digest_file(ctx.run.stage(EVALUATE) / "report.json"),
        ),
        report=load_report(ctx.run.stage(EVALUATE)),
        decision=load_decision(ctx),
        data=plain,
        teacher=ctx.config.flagship.model,
        teacher_permission=ctx.config.training_set.teacher_permission or None,
        base_licence=None,
    )


def candidate_answers(
    ctx: RunContext, queries: list[Query], champion: dict[str, Answer], known: dict[str, Answer]
) -> dict[str, Answer]:
    """What answers in place of the cheap tier, by query id: the trained adapter, or what the arm has instead."""
    if ctx.arm.answers == "champion":
        return {query.id: champion[query.id] for query in queries}
    if ctx.arm.answers == "nearest":
        return _nearest_answers(ctx, queries, known)
    answers = student_answers(ctx, _candidate_adapter(ctx), queries)
    return dict(zip((query.id for query in queries), answers, strict=True))


def _candidate_adapter(ctx: RunContext) -> Path | None:
    trained = ctx.arm.answers == "trained"
    return ctx.run.stage(ctx.arm_stage(TRAIN)) / "adapter" if trained else ctx.champion().adapter


def _nearest_answers(ctx: RunContext, queries: list[Query], known: dict[str, Answer]) -> dict[str, Answer]:
    """The answer to the nearest answered query; looking it up is free and has no confidence."""
    earlier = [trace.query for trace in load_traces(ctx, "pool") if trace.query.id in known]
    bank = answer_bank(earlier, known, embedder(ctx.config))
    places, _ = bank.nearest(queries, embed(ctx, [query.text for query in queries]), 1)
    name = ctx.config.student.name
    return {
        query.id: Answer(bank.answers[place] if place >= 0 else "", name, 0, 0, 0.0, "stop")
        for query, place in zip(queries, places[:, 0].tolist(), strict=True)
    }


def known_to_the_verifier(ctx: RunContext) -> dict[str, Answer]:
    """Flagship answers to pool queries that the candidate's learned verifier may compare with: what serving has paid
    for, as the champion's, and what the run has bought; in an experiment what the arm has bought alone."""
    bought = read_answers(ctx.run.stage(ctx.arm_stage(BUILD)) / "answers.jsonl")
    if ctx.experiment:
        return bought
    return read_answers(ctx.run.stage(BASELINE) / "pool_answers.jsonl") | bought


def _heldout_clusters(ctx: RunContext, queries: list[Query]) -> dict[str, int]:
    """Cluster of each held-out query by its nearest exemplar; queries far from all are left out."""
    clustering, embeddings = load_clustering(ctx)
    labels = assign_to_clusters(embed(ctx, [query.text for query in queries]), exemplar_index(clustering, embeddings))
    return {query.id: int(label) for query, label in zip(queries, labels, strict=True) if label >= 0}
