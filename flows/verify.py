"""Is a run's decision what its rows give? The report made again from the rows, the decision from report and policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cascade.errors import StageError
from evaluation.inputs import ReportInputs
from evaluation.replay import paired_row_from_dict
from evaluation.report import EvaluationReport
from flows.context import RunContext
from flows.records import DECIDE, EVALUATE, PROMOTE, load_decision, load_report
from flows.rundir import digest_file, digest_folder, read_json, read_jsonl
from promotion.gate import decide


def verify_run(ctx: RunContext) -> list[str]:
    """Differences between what the run stored and what follows from its rows, one sentence each; empty when equal.

    Raises StageError when the run has not reached its decision.
    """
    if ctx.run.manifest(DECIDE) is None:
        raise StageError(f"{ctx.run.root} has no decision yet: let the run go on first")
    found = list(_changed_files(ctx))
    report = recompute_report(ctx)
    found += _differences("report", load_report(ctx.run.stage(EVALUATE)).to_dict(), report.to_dict())
    decision = decide(report, ctx.config.gate)
    found += _differences("decision", load_decision(ctx).to_dict(), decision.to_dict())
    return found + list(_registered(ctx))


def recompute_report(ctx: RunContext) -> EvaluationReport:
    """The evaluation report, made anew from the stored rows and inputs."""
    folder = ctx.run.stage(EVALUATE)
    rows = [paired_row_from_dict(row) for row in read_jsonl(folder / "pairs.jsonl")]
    return ReportInputs.from_dict(read_json(folder / "inputs.json")).build(rows)


def _changed_files(ctx: RunContext) -> Iterator[str]:
    for stage in (EVALUATE, DECIDE):
        manifest, now = ctx.run.manifest(stage), digest_folder(ctx.run.stage(stage))
        outputs = manifest.outputs if manifest else {}
        for name in sorted(outputs.keys() | now.keys()):
            if name not in now:
                yield f"{stage}/{name} is gone"
            elif outputs.get(name) != now[name]:
                yield f"{stage}/{name} was changed after the stage wrote it"


def _registered(ctx: RunContext) -> Iterator[str]:
    """The registry's digest of the report, where the run has registered its candidate."""
    manifest = ctx.run.manifest(PROMOTE)
    if manifest is None:
        return
    version = str(manifest.counts["candidate"])
    kept = ctx.state.registry.lineage(version).report_digest
    if kept is not None and kept != digest_file(ctx.run.stage(EVALUATE) / "report.json"):
        yield f"{version} was registered with another report than the run holds"


def _differences(where: str, stored: Any, made: Any) -> Iterator[str]:
    """Where two JSON-like values differ, as paths; floats may differ by rounding."""
    if isinstance(stored, dict) and isinstance(made, dict):
        for key in sorted(stored.keys() | made.keys(), key=str):
            yield from _differences(f"{where}.{key}", stored.get(key), made.get(key))
    elif isinstance(stored, list | tuple) and isinstance(made, list | tuple) and len(stored) == len(made):
        for place, (one, other) in enumerate(zip(stored, made, strict=True)):
            yield from _differences(f"{where}[{place}]", one, other)
    elif isinstance(stored, float) and isinstance(made, float):
        if abs(stored - made) > 1e-9 * max(1.0, abs(stored)):
            yield f"{where}: stored {stored:.9g}, recomputed {made:.9g}"
    elif stored != made:
        yield f"{where}: stored {stored!r}, recomputed {made!r}"
