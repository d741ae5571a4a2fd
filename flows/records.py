"""Reading back what a run's stages wrote, as the packages' own records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from cascade.store import many_objects
from cascade.trace import Answer, Trace, Verdict, answer_from_dict, trace_from_dict, verdict_from_dict
from clustering.cluster import Clustering, PathTaken
from clustering.collect import Escalation, collect_escalations
from clustering.describe import Cluster
from clustering.lineage import Fate
from evaluation.report import EvaluationReport, SolvedCluster
from flows.context import RunContext
from flows.rundir import digest_file, iter_jsonl, read_json, read_jsonl, write_jsonl
from promotion.approval import Approval
from promotion.gate import Decision

COLLECT, BASELINE, CLUSTER, BUILD = "01-collect", "02-baseline", "03-cluster", "04-build"
TRAIN, EVALUATE, DECIDE, PROMOTE = "05-train", "06-evaluate", "07-decide", "08-promote"


def arm_stages(root: Path, stage: str) -> list[Path]:
    """Folders of a stage of all arms of a comparison in a run's folder, however deep an arm's folder lies."""
    return sorted((root / "arms").rglob(stage))


def load_traces(ctx: RunContext, part: str) -> list[Trace]:
    """Traces of one part of the window: pool, calibration or heldout."""
    return _traces(ctx.run.stage(COLLECT) / f"{part}.jsonl")


def load_pool(ctx: RunContext) -> list[Trace]:
    """The pool as the champion's refitted verifier would have judged it."""
    return _traces(ctx.run.stage(BASELINE) / "pool.jsonl")


def _traces(path: Path) -> list[Trace]:
    with many_objects():
        return [trace_from_dict(row) for row in iter_jsonl(path)]


def load_escalations(ctx: RunContext) -> list[Escalation]:
    """The pool's escalations, in the order in which they were clustered."""
    return list(collect_escalations(load_pool(ctx), ctx.since, ctx.until, ctx.config.grade).escalations)


def load_labels(ctx: RunContext) -> dict[str, int]:
    """Cluster by query id of the pool's escalations; -1 is noise."""
    return {row["id"]: row["cluster"] for row in read_jsonl(ctx.run.stage(CLUSTER) / "assignment.jsonl")}


def load_clusters(ctx: RunContext) -> list[Cluster]:
    """The clusters, largest first."""
    rows = read_jsonl(ctx.run.stage(CLUSTER) / "clusters.jsonl")
    return TypeAdapter(list[Cluster]).validate_python(rows)


def load_clustering(ctx: RunContext) -> tuple[Clustering, NDArray[np.float32]]:
    """The clustering and the (n, d) embeddings of the escalations that it labels."""
    folder = ctx.run.stage(CLUSTER)
    rows = read_jsonl(folder / "assignment.jsonl")
    with np.load(folder / "clustering.npz") as arrays:
        embeddings, coords = arrays["embeddings"], arrays["coords"]
    manifest = ctx.run.manifest(CLUSTER)
    counts = manifest.counts if manifest else {}
    clustering = Clustering(
        labels=np.array([row["cluster"] for row in rows], np.int64),
        adopted=np.array([row["adopted"] for row in rows], bool),
        coords_2d=coords,
        method=counts.get("method", ""),
        why=counts.get("why", ""),
        path=PathTaken(**counts["path"]) if counts.get("path") else None,
    )
    return clustering, embeddings


def load_verdicts(folder: Path) -> dict[str, Verdict]:
    """A stage's verdicts on the held-out queries, by query id."""
    return {row.pop("id"): verdict_from_dict(row) for row in read_jsonl(folder / "verdicts.jsonl")}


def load_fates(ctx: RunContext) -> list[Fate]:
    """What became of each cluster of this run and of earlier ones; empty for a run made before there was a history."""
    path = ctx.run.stage(CLUSTER) / "lineage.jsonl"
    return TypeAdapter(list[Fate]).validate_python(read_jsonl(path)) if path.exists() else []


def load_report(folder: Path) -> EvaluationReport:
    """The evaluation report of a stage folder."""
    return EvaluationReport.from_dict(read_json(folder / "report.json"))


def load_solved(ctx: RunContext) -> list[SolvedCluster]:
    """Clusters that earlier runs solved, with the held-out queries near them; none where no history is kept."""
    path = ctx.run.stage(CLUSTER) / "solved.jsonl"
    return TypeAdapter(list[SolvedCluster]).validate_python(read_jsonl(path)) if path.exists() else []


def approval_path(ctx: RunContext) -> Path:
    """Where a person's word on the run's candidate is kept."""
    return ctx.run.root / "approval.json"


def decision_digest(ctx: RunContext) -> str:
    """Digest of the run's decision, which a person's word is about."""
    return digest_file(ctx.run.stage(DECIDE) / "decision.json")


def load_approval(ctx: RunContext) -> Approval | None:
    """A person's word on the run's decision as it stands; None while there is none."""
    path = approval_path(ctx)
    if not path.exists():
        return None
    found = Approval.from_dict(read_json(path))
    return found if found.decision == decision_digest(ctx) else None


def load_decision(ctx: RunContext) -> Decision:
    """The gate's decision of the run."""
    return Decision.from_dict(read_json(ctx.run.stage(DECIDE) / "decision.json"))


def read_answers(path: Path) -> dict[str, Answer]:
    """Answers by query id."""
    return {row.pop("query_id"): answer_from_dict(row) for row in read_jsonl(path)}


def write_answers(path: Path, answers: Mapping[str, Answer]) -> None:
    """Write answers by query id, one JSON line each."""
    rows: list[dict[str, Any]] = [{"query_id": i, **asdict(answer)} for i, answer in answers.items()]
    write_jsonl(path, rows)
