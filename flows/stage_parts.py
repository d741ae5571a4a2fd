"""What several stages need: the digests of what they read, the champion's verifier refitted, embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade.errors import StageError
from cascade.grade import grade, reference_text
from cascade.local import LocalTier
from cascade.trace import Answer, Query, Verdict
from cascade.verifiers import Verifier, fit_verifier
from cascade.verifiers.config import Toolbox
from clustering.embed import embed_texts
from clustering.shards import embed_in_shards
from flows.context import RunContext
from flows.records import load_traces
from flows.rundir import digest_json
from flows.shards import answer_in_shards, open_runner
from flows.verifying import answer_bank, toolbox, traffic_answers

MOST_IN_MEMORY = 200_000  # texts that are embedded at once; their vectors also go to the cache


def input_digests(ctx: RunContext, *stages: str) -> dict[str, str]:
    """Digest of what each earlier stage wrote."""
    manifests = {stage: ctx.run.manifest(stage) for stage in stages}
    missing = [stage for stage, manifest in manifests.items() if manifest is None]
    if missing:
        raise StageError(f"{ctx.run.root}: stage {missing[0]} is not complete: run it first")
    return {stage: digest_json(manifest.outputs) for stage, manifest in manifests.items() if manifest}


def judging_settings(ctx: RunContext) -> dict[str, Any]:
    """Settings that change which cheap answers count as right or are accepted."""
    config = ctx.config
    return {
        "rules": config.rules.model_dump(mode="json"),
        "verifier": config.verifier.model_dump(mode="json"),
        "router": config.router.model_dump() if config.router else None,
        "calibration": config.calibration.model_dump(),
        "reference": config.reference,
        "grade": config.grade,
        "flagship": config.flagship.model,
        "max_new_tokens": config.student.max_new_tokens,
    }


def embed(ctx: RunContext, texts: list[str]) -> NDArray[np.float32]:
    """(n, d) unit vectors; very many texts in shards, whose vectors then stay on disk."""
    runner = ctx.config.runner
    if len(texts) > (runner.shard_texts if runner.kind == "ray" else MOST_IN_MEMORY):
        folder = (ctx.run.root / "shards" / digest_json(texts)[:16]).resolve()  # workers may have another folder
        with open_runner(runner) as run:
            return embed_in_shards(texts, ctx.config.embed, folder, run, runner.shard_texts)
    return embed_texts(texts, ctx.config.embed, ctx.config.state / "embeddings.db")


def refit_verifier(
    ctx: RunContext,
    cheap: dict[str, Answer],
    flagship: dict[str, Answer],
    pool: Mapping[str, Answer],
    surest: Mapping[str, Answer],
    tools: Toolbox,
    floor: float | None = None,
) -> Verifier:
    """A verifier for this model's own answers, on the calibration part alone.

    `pool` and `surest`: the flagship's answers to pool queries and the champion's surest, which a learned verifier
    compares with. `floor`: the share of right answers that the cascade must serve there (`fit_calibration`).
    """
    queries = [t.query for t in load_traces(ctx, "calibration") if t.query.id in cheap]
    references = [reference_text(query, flagship[query.id], ctx.config.reference) for query in queries]
    theirs = [flagship[query.id].text for query in queries]
    right = [grade(text, known, ctx.config.grade) >= 1.0 for text, known in zip(theirs, references, strict=True)]
    pooled = load_traces(ctx, "pool")
    earlier = [t.query for t in pooled]
    known = answer_bank(earlier, pool, tools.embed) if tools.needs_bank else None
    compared = known.merge(answer_bank(earlier, surest, tools.embed)) if known is not None else None
    return fit_verifier(
        queries,
        [cheap[query.id] for query in queries],
        references,
        ctx.config.rules,
        ctx.config.calibration,
        grade_kind=ctx.config.grade,
        scorers=tools.scorers(ctx.config.calibration.signal, compared, traffic_answers(pooled, ctx.champion_id, tools)),
        chain=ctx.config.verifier.chain,
        router=tools.router_trainer(known, cheap.values(), flagship.values()),
        groups=tools.groups(earlier) if ctx.config.calibration.by_group else None,
        flagship_correct=right,
        floor=floor,
    )


def judge_all(verifier: Verifier, queries: list[Query], answers: Mapping[str, Answer]) -> dict[str, Verdict]:
    """Verdicts by query id, ROUTED where the verifier's router would spare the attempt."""
    routed = {q.id: verdict for q, verdict in zip(queries, verifier.route(queries), strict=True) if verdict is not None}
    tried = [q for q in queries if q.id not in routed]
    judged = verifier.judge(tried, [answers[q.id] for q in tried])
    return routed | {q.id: verdict for q, verdict in zip(tried, judged, strict=True)}


def student_answers(ctx: RunContext, adapter: Path | None, queries: Sequence[Query]) -> list[Answer]:
    """The student's answers, in order: in this process, or in shards where the runner is a cluster."""
    student, runner = ctx.config.student.model_copy(update={"adapter": adapter}), ctx.config.runner
    if runner.kind == "threads" or len(queries) <= runner.shard_queries:
        return LocalTier(student).answer(queries)
    key = digest_json([student.model_dump(mode="json"), [query.id for query in queries]])[:16]
    return answer_in_shards(queries, student, (ctx.run.root / "shards" / f"answers-{key}").resolve(), runner)


def cheap_toolbox(ctx: RunContext, adapter: Path | None) -> Toolbox:
    """What scorers need: the student with this adapter to draw samples from, a judge that is paid from the budget."""
    student = ctx.config.student.model_copy(update={"adapter": adapter})
    return replace(toolbox(ctx.config, lambda: LocalTier(student)), judge_asker=ctx.ask_judge)
