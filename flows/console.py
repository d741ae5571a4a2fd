"""What the command line prints: tables, the decision, paths."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cascade.errors import StageError
from flows.charts import cluster_map_png
from flows.context import RunContext, State
from flows.doctor import CheckResult
from flows.records import (
    BUILD,
    CLUSTER,
    DECIDE,
    EVALUATE,
    PROMOTE,
    load_clustering,
    load_clusters,
    load_decision,
    load_fates,
    load_report,
)
from flows.report import map_spots
from flows.rundir import read_json, write_bytes
from flows.serve import Replay
from flows.summary import (
    as_served,
    cluster_rows,
    flagship_cost_per_1000,
    lineage_rows,
    metric_rows,
    path_sentences,
)

console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
COLOURS = {"promote": "green", "pass": "green", "reject": "red", "fail": "red"}


def say(text: str) -> None:
    """One line, not wrapped: paths stay whole."""
    console.print(text, soft_wrap=True)


def table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """A table whose columns are the rows' keys."""
    if not rows:
        return
    grid = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for key, value in rows[0].items():
        grid.add_column(key, justify="right" if isinstance(value, int | float) else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(escape(str(value)) for value in row.values()))
    console.print(grid)


def print_replay(done: Replay) -> None:
    """What a replay did, in a few lines."""
    served = done.served
    if done.n_cold_start:
        say(f"cold start: {done.n_cold_start} queries went to both tiers to calibrate the verifier of {done.champion}")
    if done.n_rejected:
        say(f"{done.n_rejected} unusable rows, with their reasons: {done.rejected_path}")
    rate = served.escalation_rate
    shown = "" if rate is None else f", {rate:.1%} escalated"
    cost = "unknown" if served.cost_usd is None else f"{served.cost_usd:.4f} USD"
    say(
        f"served {served.n} queries with {done.champion}{shown}, {served.n_audited} audited, cost {cost}"
        f" ({served.n_skipped} served before, {served.n_failed} failed)"
    )
    if served.failure:
        say(f"first failure: {served.failure}; run the same command again to retry")


def print_run(ctx: RunContext) -> None:
    """Clusters, before and after, the decision with its reasons, and the report's path."""
    clusters, selection = load_clusters(ctx), read_json(ctx.run.stage(BUILD) / "selection.json")
    chosen = {int(k): v for k, v in selection.get("per_cluster", {}).items()}
    manifest = ctx.run.manifest(CLUSTER)
    assert manifest is not None
    table(f"What escalates ({manifest.counts['why']})", cluster_rows(clusters[:20], chosen, load_fates(ctx)))
    report = load_report(ctx.run.stage(EVALUATE))
    level = f"{1 - 2 * report.alpha:.0%}"
    table(f"Before and after, on {report.n} held-out queries ({level} intervals)", metric_rows(report))
    say(as_served(ctx))
    flagship = flagship_cost_per_1000(report.overall.champion)
    if flagship:
        say(f"always asking the flagship would cost {flagship:.4f} USD per 1,000 queries")
    if report.payback_queries is not None:
        paid = f"the run paid the flagship {report.run_cost_usd:.4f} USD"
        say(f"{paid}: earned back after {report.payback_queries:,} queries")
    print_decision(ctx)
    say(f"\nreport: {(ctx.run.root / 'report.html').resolve()}")


def print_clusters(ctx: RunContext, picture: Path | None) -> None:
    """The run's clusters and what became of earlier ones, and the map's path."""
    if ctx.run.manifest(CLUSTER) is None:
        raise StageError(f"run {ctx.run.run_id} has no clusters yet: it has not finished {CLUSTER}")
    clusters, fates, (clustering, _) = load_clusters(ctx), load_fates(ctx), load_clustering(ctx)
    history = ctx.state.clusters
    names = {sighting.uid: sighting.name for sighting in history.sightings(ctx.run.run_id)}
    rows = lineage_rows(clusters, fates, history.first_seen(), names)
    table(f"Clusters of {ctx.run.run_id}, {ctx.since:%Y-%m-%d} to {ctx.until:%Y-%m-%d}", rows)
    for fate in fates:
        if fate.cluster is None:
            say(f"{fate.uid} {fate.state}: {fate.why}")
    table("How they came about", [{"what": what, "value": value} for what, value in path_sentences(clustering)])
    path = picture or ctx.run.root / "clusters.png"
    write_bytes(path, cluster_map_png(clustering.coords_2d, clustering.labels, map_spots(clusters, fates)))
    say(f"map: {path.resolve()}")


def print_decision(ctx: RunContext) -> None:
    """The gate's outcome and every check."""
    if ctx.run.manifest(DECIDE) is None:
        return
    found = load_decision(ctx)
    rows = [{"check": c.name, "result": str(c.status), "evidence": c.sentence} for c in found.checks]
    table("The gate", rows)
    promoted = ctx.run.manifest(PROMOTE)
    aliases = ctx.state.registry.aliases()
    tail = f"champion is {aliases.get('champion')}" + ("" if promoted else " (dry run: nothing was changed)")
    colour = COLOURS.get(str(found.outcome), "yellow")
    say(f"[bold {colour}]{found.outcome.upper()}[/]: {tail}")
    if found.n_needed:
        say(f"about {found.n_needed} held-out queries would settle it")


def print_comparison(results: list[dict[str, Any]], root: Path) -> None:
    """One row per arm and seed, then one per arm."""
    from flows.compare import mean_row, read_results

    found = read_results(results)
    table("Arms at equal flagship answers and training tokens", [r.row() for r in found])
    arms = list(dict.fromkeys(r.arm for r in found))
    table("Mean over seeds (range of the seeds)", [mean_row([r for r in found if r.arm == arm]) for arm in arms])
    say(f"\nresults: {(root / 'comparison.json').resolve()}")


def print_status(state: State, runs: Path) -> None:
    """Aliases, versions, history and runs."""
    aliases: dict[str, list[str]] = {}
    for alias, version in state.registry.aliases().items():
        aliases.setdefault(version, []).append(alias)
    versions = [
        {
            "version": v.id,
            "alias": ", ".join(aliases.get(v.id, [])) or "-",
            "adapter": (v.adapter_digest or "base model")[:12],
            "run": v.run_id or "-",
            "created": v.created[:19],
        }
        for v in state.registry.versions()
    ]
    say(f"{state.traces.count()} traces in {state.root}")
    table("Versions", versions)
    history = [
        {
            "time": h.time[:19],
            "action": h.action,
            "version": h.version,
            "replaced": h.replaced or "-",
            "who": h.who,
            "why": h.why,
        }
        for h in state.registry.history()
    ]
    table("History", history)
    folders = sorted(path.parent for path in runs.glob("*/run.json"))
    table("Runs", [{"run": f.name, "reached": _reached(f)} for f in folders])


def _reached(folder: Path) -> str:
    done = sorted(path.parent.name for path in folder.glob("0*/manifest.json"))
    arms = len({path.parent.parent for path in folder.glob("arms/*/*/06-evaluate/manifest.json")})
    return (done[-1] if done else "nothing yet") + (f", {arms} arms evaluated" if arms else "")


def print_checks(checks: Sequence[CheckResult]) -> None:
    """The doctor's findings."""
    table("doctor", [{"check": c.name, "result": "ok" if c.ok else "FAIL", "found": c.found} for c in checks])
