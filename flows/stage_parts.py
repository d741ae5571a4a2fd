"""What several stages need: the digests of what they read, the champion's verifier refitted, embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade.errors import StageError
from cascade.grade import reference_text
from cascade.trace import Answer
from cascade.verifiers import Verifier, fit_verifier
from clustering.embed import embed_texts
from clustering.shards import embed_in_shards
from flows.context import RunContext
from flows.records import load_traces
from flows.rundir import digest_json

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
        "calibration": config.calibration.model_dump(),
        "reference": config.reference,
        "grade": config.grade,
        "flagship": config.flagship.model,
        "max_new_tokens": config.student.max_new_tokens,
    }


def embed(ctx: RunContext, texts: list[str]) -> NDArray[np.float32]:
    """(n, d) unit vectors; very many texts in shards, whose vectors then stay on disk."""
    if len(texts) > MOST_IN_MEMORY:
        return embed_in_shards(texts, ctx.config.embed, ctx.run.root / "shards" / digest_json(texts)[:16])
    return embed_texts(texts, ctx.config.embed, ctx.config.state / "embeddings.db")


def refit_verifier(ctx: RunContext, cheap: dict[str, Answer], flagship: dict[str, Answer]) -> Verifier:
    """A verifier for this model's own confidence, on the calibration part alone."""
    queries = [t.query for t in load_traces(ctx, "calibration") if t.query.id in cheap]
    references = [reference_text(query, flagship[query.id], ctx.config.reference) for query in queries]
    return fit_verifier(
        queries,
        [cheap[query.id] for query in queries],
        references,
        ctx.config.rules,
        ctx.config.calibration,
        grade_kind=ctx.config.grade,
    )
