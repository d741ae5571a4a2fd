"""The run's HTML report: one file, pictures inline, readable offline. Shows what the run has reached so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from clustering.describe import Cluster
from clustering.lineage import Fate
from evaluation.intervals import Interval
from evaluation.metrics import Comparison
from evaluation.report import EvaluationReport
from finetune.adapter import LOSSES, VALIDATION
from flows import charts
from flows.context import RunContext
from flows.records import (
    BASELINE,
    BUILD,
    CLUSTER,
    DECIDE,
    EVALUATE,
    PROMOTE,
    TRAIN,
    load_clustering,
    load_clusters,
    load_decision,
    load_escalations,
    load_fates,
    load_report,
)
from flows.rundir import Manifest, read_json, read_jsonl, write_text
from flows.summary import as_served, flagship_cost_per_1000, metric_rows, path_sentences

TEMPLATES = Path(__file__).parent / "templates"
MOST_SHOWN = 300  # characters of an exemplar


def write_report(ctx: RunContext) -> Path:
    """Render the report of a run to report.html in its folder; returns the path."""
    path = ctx.run.root / "report.html"
    write_text(path, render("report.html.j2", **_page(ctx)))
    return path


def render(template: str, **values: Any) -> str:
    """A page of the templates folder; a name that the template misses is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**values)


def _page(ctx: RunContext) -> dict[str, Any]:
    done = {stage for stage in (CLUSTER, BUILD, TRAIN, EVALUATE, DECIDE, PROMOTE) if ctx.run.manifest(stage)}
    head = {
        "title": f"cascade-distill: {ctx.config.name}",
        "run_id": ctx.run.run_id,
        "since": f"{ctx.since:%Y-%m-%d}",
        "until": f"{ctx.until:%Y-%m-%d}",
        "seed": ctx.seed,
        "config_yaml": yaml.safe_dump(ctx.config.dump(), sort_keys=False),
    }
    sections: dict[str, Any] = {
        "commit": None,
        "decision": _decision(ctx) if DECIDE in done else None,
        "charts": {},
        "money": _money(ctx),
    }
    for stage, section in ((EVALUATE, _evaluation), (CLUSTER, _clusters), (TRAIN, _training)):
        part = section(ctx) if stage in done else {}
        sections["charts"] |= part.pop("charts", {})
        sections |= part
    for name in ("metrics", "clusters", "training", "per_cluster", "n_heldout", "level", "as_served"):
        sections.setdefault(name, None)
    manifest = ctx.run.manifest(EVALUATE) or ctx.run.manifest(BASELINE)
    return {**head, **sections, "commit": manifest.commit if manifest else None}


def _decision(ctx: RunContext) -> dict[str, Any]:
    found = load_decision(ctx)
    promoted = ctx.run.manifest(PROMOTE)
    candidate = promoted.counts["candidate"] if promoted else "the candidate"
    sentence = {
        "promote": _promoted_sentence(ctx, candidate, promoted),
        "reject": f"{ctx.champion_id} stays champion.",
        "inconclusive": f"{ctx.champion_id} stays champion; "
        + (f"about {found.n_needed} held-out queries would settle it." if found.n_needed else "the data do not tell."),
    }[str(found.outcome)]
    checks = [{"name": c.name, "status": str(c.status), "reason": c.sentence} for c in found.checks]
    return {"outcome": str(found.outcome), "sentence": sentence, "checks": checks}


def _promoted_sentence(ctx: RunContext, candidate: str, promoted: Manifest | None) -> str:
    if promoted is None:
        return "the candidate passed every check (not promoted: a dry run, or it waits for a person's word)."
    if not promoted.counts.get("promoted", True):
        return f"{candidate} passed every check and was rejected by a person; {ctx.champion_id} stays champion."
    return f"{candidate} serves as champion; {ctx.champion_id} is kept as previous."


def _evaluation(ctx: RunContext) -> dict[str, Any]:
    report = load_report(ctx.run.stage(EVALUATE))
    rows = [
        {"name": r["metric"], "before": r["before"], "after": r["after"], "difference": r["change"]}
        for r in metric_rows(report)
    ]
    return {
        "metrics": rows,
        "n_heldout": report.n,
        "as_served": as_served(ctx),
        "level": f"{1 - 2 * report.alpha:.0%}",
        "per_cluster": [_cluster_row(c) for c in report.clusters],
        "charts": {"escalation": _escalation_chart(report), "cost": _cost_chart(report)},
    }


def _escalation_chart(report: EvaluationReport) -> str:
    sides = report.overall.champion.escalation_rate, report.overall.candidate.escalation_rate
    return charts.bars(_bars(*sides), "escalation rate", percent=True)


def _cost_chart(report: EvaluationReport) -> str:
    before, after = report.overall.champion, report.overall.candidate
    if before.cost_per_1000_usd is None or after.cost_per_1000_usd is None:
        return ""
    flagship = flagship_cost_per_1000(before)
    line = (flagship, "always flagship") if flagship else None
    return charts.bars(_bars(before.cost_per_1000_usd, after.cost_per_1000_usd), "USD per 1,000 queries", line)


def _bars(before: Interval, after: Interval) -> list[charts.Bar]:
    return [
        charts.Bar("champion", before.value, before.low, before.high, charts.BEFORE),
        charts.Bar("candidate", after.value, after.low, after.high, charts.AFTER),
    ]


def _cluster_row(part: Comparison) -> dict[str, Any]:
    before, after = part.champion, part.candidate
    return {
        "name": part.name,
        "n": part.paired.n,
        "escalation_before": f"{before.escalation_rate.value:.0%}",
        "escalation_after": f"{after.escalation_rate.value:.0%}",
        "quality_before": f"{before.quality.value:.1%}",
        "quality_after": f"{after.quality.value:.1%}",
    }


def _clusters(ctx: RunContext) -> dict[str, Any]:
    clusters, (clustering, _) = load_clusters(ctx), load_clustering(ctx)
    texts = {e.id: e.text for e in load_escalations(ctx)}
    path = ctx.run.stage(BUILD) / "selection.json"
    chosen = read_json(path).get("per_cluster", {}) if path.exists() else {}
    fates = load_fates(ctx)
    identity = {fate.cluster: fate for fate in fates if fate.cluster is not None}
    picture = charts.cluster_map(clustering.coords_2d, clustering.labels, map_spots(clusters, fates))
    rows = [
        {
            "id": identity[c.id].uid if c.id in identity else c.id,
            "state": str(identity[c.id].state) if c.id in identity else "-",
            "terms": c.title or ", ".join(c.terms),
            "size": c.size,
            "share": f"{c.share:.1%}",
            "causes": ", ".join(f"{n} {cause}" for cause, n in c.causes.items() if n) or _graded(c),
            "selected": chosen.get(str(c.id), 0),
            "exemplar": texts[c.exemplar_ids[0]][:MOST_SHOWN],
        }
        for c in clusters
    ]
    names = {s.uid: s.name for s in ctx.state.clusters.sightings(ctx.run.run_id)}
    gone = [
        {"id": fate.uid, "name": names.get(fate.uid, "-"), "state": str(fate.state), "why": fate.why}
        for fate in fates
        if fate.cluster is None
    ]
    note = f"{clustering.method}: {clustering.why}; {clustering.noise_share:.1%} of the queries remain noise."
    return {
        "clusters": rows,
        "n_escalations": len(clustering.labels),
        "clustering_note": note,
        "clustering_path": path_sentences(clustering),
        "gone": gone,
        "charts": {"clusters": picture},
    }


def map_spots(clusters: Sequence[Cluster], fates: Sequence[Fate]) -> list[charts.Spot]:
    """The clusters as the map shows them: by their identity, where they have one."""
    uids = {fate.cluster: fate.uid for fate in fates}
    return [charts.Spot(c.id, f"{uids.get(c.id, c.id)} {c.name}"[:44], c.size, c.escalated_cost_usd) for c in clusters]


def _graded(cluster: Cluster) -> str:
    return f"{cluster.n_cheap_wrong} cheap wrong, {cluster.n_cheap_right} cheap right"


def _training(ctx: RunContext) -> dict[str, Any]:
    counts = ctx.run.manifest(TRAIN)
    built = ctx.run.manifest(BUILD)
    folder = ctx.run.stage(TRAIN) / "adapter"
    curve = read_jsonl(folder / LOSSES)
    validation = read_jsonl(folder / VALIDATION) if (folder / VALIDATION).exists() else []
    facts = {**(built.counts if built else {}), **(counts.counts if counts else {})}
    return {
        "training": [(name.replace("_", " "), _shown(value)) for name, value in facts.items()],
        "charts": {"loss": charts.loss_curve([r["loss"] for r in curve], [(r["step"], r["loss"]) for r in validation])},
    }


def _money(ctx: RunContext) -> list[tuple[str, str]]:
    rows = []
    for stage, name in ((BASELINE, "calibration and held-out"), (BUILD, "training answers")):
        manifest = ctx.run.manifest(stage)
        if manifest is None:
            continue
        counts = manifest.counts
        rows.append((f"{name}: answers bought", str(counts["flagship_bought"])))
        rows.append((f"{name}: answers already paid for", str(counts["flagship_reused"])))
        cost = counts["flagship_cost_usd"]
        rows.append((f"{name}: paid", "unknown" if cost is None else f"{cost:.4f} USD"))
    rows.append(("budget of the run", f"{ctx.config.budget_usd:.2f} USD"))
    if ctx.run.manifest(EVALUATE):
        report = load_report(ctx.run.stage(EVALUATE))
        found = report.payback_why if report.payback_queries is None else f"{report.payback_queries:,}"
        rows.append(("queries until the run has paid for itself", found))
    return rows


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {inner}" for key, inner in value.items()) or "none"
    text = str(value)
    return text if len(text) <= 24 else text[:16] + "…"
