"""The stages of an improvement run, each a plain function: read records, call a package, write records.

    01-collect    traces of the window -> pool | calibration | held-out
    02-baseline   the champion on calibration and held-out: answers, flagship answers, refitted verifier
    03-cluster    the pool's escalations, as the refitted verifier sees them -> embeddings -> clusters
    04-build      clusters -> selection -> flagship answers + replay -> training set
    05-train      training set -> adapter
    06-evaluate   candidate on the same held-out queries, paired with the champion -> report
    07-decide     report + policy -> decision
    08-promote    decision -> registry

Stages 04 to 06 serve every arm of a comparison; an arm's folders lie below arms/<arm>/ instead of the run's root.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from cascade.cascade import rejudge
from cascade.request import request_digest
from cascade.trace import Answer, Trace, trace_to_dict
from cascade.verifiers import Verifier
from cascade.verifiers.accounts import add_known
from clustering.causes import count_causes, find_causes
from clustering.describe import describe_clusters
from clustering.embed import n_cut
from finetune.spec import TrainSpec
from finetune.train import train_adapter
from finetune.training_set import build_training_set, write_heldout_keys, write_training_examples
from flows.cluster_parts import embed_and_cluster, name_clusters, recognise, solved_clusters
from flows.context import RunContext
from flows.records import (
    BASELINE,
    BUILD,
    CLUSTER,
    COLLECT,
    TRAIN,
    load_escalations,
    load_labels,
    load_pool,
    load_traces,
    write_answers,
)
from flows.rundir import Manifest, digest_json, write_json, write_jsonl
from flows.selection import choose_queries
from flows.stage_parts import (
    cheap_toolbox,
    input_digests,
    judge_all,
    judging_settings,
    refit_verifier,
    student_answers,
)
from flows.verifying import account_rows, describe, keep
from flows.window import copy_traces, split_window


def collect(ctx: RunContext) -> Manifest:
    """Split the window's traces in time order: pool, calibration, held-out. They are copied, not parsed."""
    ids = ctx.state.traces.ids_between(ctx.since, ctx.until)

    def body(folder: Path) -> dict[str, Any]:
        parts = split_window(ids, ctx.config.window, ctx.since, ctx.until, ctx.config.seed)
        n_escalated = copy_traces(ctx, folder, parts)
        return {
            "traces": len(ids),
            **{part: len(own) for part, own in parts.items()},
            "escalated_as_served": n_escalated,
        }

    window = ctx.config.window
    config: dict[str, Any] = {"window": window.model_dump(exclude={"max_labelled"})}
    if window.max_labelled is not None:
        config |= {"max_labelled": window.max_labelled, "seed": ctx.config.seed}
    return ctx.run.run_stage(COLLECT, config, {"traces": digest_json(ids)}, body)


def baseline(ctx: RunContext) -> Manifest:
    """The champion on calibration and held-out queries, with the flagship's answers to both."""
    champion = ctx.champion()

    def body(folder: Path) -> dict[str, Any]:
        traces = load_traces(ctx, "calibration") + load_traces(ctx, "heldout")
        _adopt(ctx, traces)
        purchase = ctx.buyer.buy([t.query for t in traces], "calibration and held-out")
        traces = [t for t in traces if t.query.id in purchase.answers]
        answers, n_reused = _champion_answers(ctx, traces)
        pool = load_traces(ctx, "pool")
        known = _known_answers(ctx, pool)
        tools = cheap_toolbox(ctx, champion.adapter)
        first = refit_verifier(ctx, answers, purchase.answers, known, {}, tools)
        judged = _rejudged(ctx, pool, first)
        surest = _surest(ctx, judged, first) if tools.compares else {}
        verifier = refit_verifier(ctx, answers, purchase.answers, known, surest, tools) if surest else first
        heldout = [t.query for t in load_traces(ctx, "heldout") if t.query.id in answers]
        verdicts = judge_all(verifier, heldout, answers)
        write_answers(folder / "champion.jsonl", answers)
        write_answers(folder / "flagship.jsonl", purchase.answers)
        write_answers(folder / "pool_answers.jsonl", known)
        write_answers(folder / "surest.jsonl", surest)
        write_json(folder / "verifier.json", keep(verifier, tools))
        write_jsonl(folder / "pool.jsonl", (trace_to_dict(trace) for trace in judged))
        write_jsonl(folder / "verdicts.jsonl", ({"id": i, **asdict(verdict)} for i, verdict in verdicts.items()))
        return {
            "flagship_bought": purchase.n_bought,
            "flagship_reused": purchase.n_reused,
            "flagship_failed": len(purchase.failed),
            "flagship_cost_usd": purchase.cost_usd,
            "champion_answers_reused_from_traces": n_reused,
            "pool_answers_known": len(known),
            "pool_surest": len(surest),
            **describe(verifier),
            "accounts": account_rows(verdicts.values()),
        }

    config = {"champion": champion.id, "experiment": ctx.experiment, **judging_settings(ctx)}
    return ctx.run.run_stage(BASELINE, config, input_digests(ctx, COLLECT), body)


def _known_answers(ctx: RunContext, pool: list[Trace]) -> dict[str, Answer]:
    """Flagship answers to pool queries that are there already: escalated, audited, or bought by an earlier run. In an
    experiment there are none, since each counts for the arm that uses it."""
    if ctx.experiment:
        return {}
    store, config = ctx.state.answers, ctx.config.flagship
    found = {t.query.id: t.flagship or store.get(request_digest(t.query, config)) for t in pool}
    return {i: answer for i, answer in found.items() if answer is not None}


def _rejudged(ctx: RunContext, traces: list[Trace], verifier: Verifier) -> list[Trace]:
    """The pool as the champion's refitted verifier would have judged it: what has gone lenient shows."""
    found = traces
    # A verifier that accepts nothing tells no escalation from another: the verdicts of the day say more.
    if verifier.calibration.threshold is not None:
        costs = [trace.cost_usd for trace in traces if trace.escalated and trace.cost_usd is not None]
        mean_usd = sum(costs) / len(costs) if costs else None
        # The verifier is fitted to the champion's answers; another version's keep their verdicts.
        own = [trace for trace in traces if trace.cheap_version == ctx.champion_id]
        judged = {trace.query.id: trace for trace in rejudge(own, verifier, mean_usd)}
        found = [judged.get(trace.query.id, trace) for trace in traces]
    return [replace(trace, flagship=None) for trace in found] if ctx.experiment else found


def _surest(ctx: RunContext, judged: list[Trace], verifier: Verifier) -> dict[str, Answer]:
    """The champion's surest answers to pool queries, as many as its refitted verifier accepts: most of them are right,
    and a learned verifier compares other answers with them. None where it accepts nothing.

    They are chosen by token confidence, not by verdict: verdicts come from the labels of the calibration part, and a
    bank that knows these makes the answers to learn from look easier to judge than those of the traffic.
    """
    if verifier.calibration.threshold is None:
        return {}
    own = [trace for trace in judged if trace.cheap_version == ctx.champion_id]
    sure = {t.query.id: (t.cheap.confidence.mean_logprob, t.cheap) for t in own if t.cheap and t.cheap.confidence}
    n = sum(trace.verdict.accepted for trace in own)
    found = sorted(sure, key=lambda i: (-sure[i][0], i))[:n]
    most = min(len(found), ctx.config.verifier.learned.surest)
    places = np.unique(np.linspace(0, len(found) - 1, most).astype(np.int64))
    return {found[i]: sure[found[i]][1] for i in places.tolist()}


def cluster(ctx: RunContext) -> Manifest:
    """Embed and cluster the pool's escalations, and describe what they have in common."""

    def body(folder: Path) -> dict[str, Any]:
        escalations = load_escalations(ctx)
        clustering, embeddings, counts = embed_and_cluster(ctx, escalations)
        rules, kind = ctx.config.rules, ctx.config.grade
        causes = find_causes(escalations, embeddings, clustering.labels, kind, ctx.config.causes, rules)
        clusters = describe_clusters(clustering, embeddings, escalations, causes=causes)
        if ctx.config.name_clusters:
            clusters, paid = name_clusters(ctx, clusters, escalations)
            counts |= paid
        fates = recognise(ctx, clusters, clustering.labels, embeddings, escalations)
        np.savez(folder / "clustering.npz", embeddings=embeddings, coords=clustering.coords_2d)
        write_jsonl(
            folder / "assignment.jsonl",
            (
                {"id": e.id, "cluster": int(label), "adopted": bool(adopted), "cause": str(cause)}
                for e, label, adopted, cause in zip(
                    escalations, clustering.labels, clustering.adopted, causes, strict=True
                )
            ),
        )
        write_jsonl(folder / "clusters.jsonl", (asdict(c) for c in clusters))
        write_jsonl(folder / "lineage.jsonl", (asdict(fate) for fate in fates))
        write_jsonl(folder / "solved.jsonl", (asdict(solved) for solved in solved_clusters(ctx)))
        return {
            "escalations": len(escalations),
            "escalated_as_served": sum(trace.escalated for trace in load_traces(ctx, "pool")),
            "clusters": clustering.n_clusters,
            "noise_share": clustering.noise_share,
            "method": clustering.method,
            "why": clustering.why,
            "path": asdict(clustering.path) if clustering.path else None,
            "texts_cut_for_the_embedder": n_cut([e.text for e in escalations], ctx.config.embed),
            "states": dict(Counter(str(fate.state) for fate in fates)),
            "causes": count_causes(causes),
            **counts,
        }

    config = {
        "embed": ctx.config.embed.model_dump(),
        "cluster": ctx.config.cluster.model_dump(),
        "causes": ctx.config.causes.model_dump(),
        "lineage": ctx.config.lineage.model_dump(),
        "name_clusters": ctx.config.name_clusters,
    }
    return ctx.run.run_stage(CLUSTER, config, input_digests(ctx, COLLECT, BASELINE), body)


def build(ctx: RunContext) -> Manifest:
    """Choose queries as the arm says, buy the flagship's answers, add replay, filter."""

    def body(folder: Path) -> dict[str, Any]:
        ids, selection = choose_queries(ctx)
        pool = {t.query.id: t for t in load_pool(ctx)}
        chosen = set(ids)
        _adopt(ctx, [t for t in load_traces(ctx, "pool") if t.query.id in chosen])
        purchase = ctx.buyer.buy([pool[i].query for i in ids], f"training answers, {ctx.arm.name}")
        labels = load_labels(ctx)
        heldout = {t.query.text for part in ("calibration", "heldout") for t in load_traces(ctx, part)}
        training = build_training_set(
            [(pool[i].query, purchase.answers[i]) for i in ids if i in purchase.answers],
            list(pool.values()),
            heldout,
            ctx.config.training_set,
            ctx.seed,
            clusters=labels,
        )
        n_overlap = training.counts["heldout_overlap"]
        print(f"training set: {n_overlap} candidates overlap a held-out query and are left out", file=sys.stderr)
        write_training_examples(folder / "training.jsonl", training.examples)
        write_heldout_keys(folder / "heldout_keys.txt", heldout)
        write_jsonl(folder / "dropped.jsonl", ({"id": i, "reason": reason} for i, reason in training.dropped))
        write_answers(folder / "answers.jsonl", {i: purchase.answers[i] for i in ids if i in purchase.answers})
        write_json(folder / "selection.json", {"arm": ctx.arm.name, "ids": ids, **selection})
        return {
            "selected": len(ids),
            "flagship_bought": purchase.n_bought,
            "flagship_reused": purchase.n_reused,
            "flagship_failed": len(purchase.failed),
            "flagship_cost_usd": purchase.cost_usd,
            "answers_worth_usd": add_known([ctx.prices.cost_usd(answer) for answer in purchase.answers.values()]),
            **training.counts,
        }

    config = {
        "arm": ctx.arm.name,
        "target": ctx.config.target.model_dump(),
        "training_set": ctx.config.training_set.model_dump(mode="json"),
        "flagship": ctx.config.flagship.model,
        "seed": ctx.seed,
    }
    return ctx.run.run_stage(ctx.arm_stage(BUILD), config, input_digests(ctx, COLLECT, BASELINE, CLUSTER), body)


def train(ctx: RunContext, token_budget: int | None = None) -> Manifest:
    """LoRA on the training set, in a subprocess of its own."""
    champion = ctx.champion()

    def body(folder: Path) -> dict[str, Any]:
        adapter = train_adapter(train_spec(ctx, folder / "adapter", token_budget), folder / "work")
        return {k: v for k, v in asdict(adapter).items() if k != "path"}

    config = {
        "train": ctx.config.train.model_dump(mode="json"),
        "base_model": ctx.config.student.base_model,
        "init": champion.adapter_digest,
        "token_budget": token_budget,
        "seed": ctx.seed,
    }
    return ctx.run.run_stage(ctx.arm_stage(TRAIN), config, input_digests(ctx, ctx.arm_stage(BUILD)), body)


def train_spec(ctx: RunContext, out: Path, token_budget: int | None = None) -> TrainSpec:
    """One training on the arm's training set, from the champion's adapter on."""
    build_folder = ctx.run.stage(ctx.arm_stage(BUILD))
    return TrainSpec(
        **ctx.config.train.model_dump(),
        base_model=ctx.config.student.base_model,
        revision=ctx.config.student.revision,
        init_adapter=ctx.champion().adapter,
        examples=build_folder / "training.jsonl",
        heldout=build_folder / "heldout_keys.txt",
        out=out,
        token_budget=token_budget,
        seed=ctx.seed,
    )


def _adopt(ctx: RunContext, traces: list[Trace]) -> None:
    """Answers that serving has already paid for are not bought again."""
    for trace in traces:
        if trace.flagship is not None:
            ctx.buyer.adopt(trace.query, trace.flagship)


def _champion_answers(ctx: RunContext, traces: list[Trace]) -> tuple[dict[str, Answer], int]:
    """The champion's answers: from the traces that it served itself, else made now."""
    champion = ctx.champion()
    answers = {t.query.id: t.cheap for t in traces if t.cheap is not None and t.cheap_version == champion.id}
    asked = [t.query for t in traces if t.query.id not in answers]
    n_reused = len(answers)
    if asked:
        made = student_answers(ctx, champion.adapter, asked)
        answers |= dict(zip((q.id for q in asked), made, strict=True))
    return answers, n_reused
