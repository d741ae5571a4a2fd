"""What a run, its clusters, its decision, a comparison and the registry print."""

from __future__ import annotations

from pathlib import Path

from cascade.errors import StageError
from cascade.verifiers import ScorerAccount
from flows.charts import cluster_map_png
from flows.console import COLOURS, say, table
from flows.context import RunContext, State
from flows.records import (
    BUILD,
    CLUSTER,
    DECIDE,
    EVALUATE,
    PROMOTE,
    arm_stages,
    load_clustering,
    load_clusters,
    load_decision,
    load_fates,
    load_report,
)
from flows.report import map_spots
from flows.rundir import read_json, write_bytes
from flows.summary import (
    as_served,
    cluster_rows,
    flagship_cost_per_1000,
    lineage_rows,
    metric_rows,
    path_sentences,
    scorer_rows,
)
from promotion.approval import needs_word


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
    evaluated = ctx.run.manifest(EVALUATE)
    accounts = [ScorerAccount(**row) for row in evaluated.counts["accounts"]] if evaluated else []
    if any(account.cost_usd != 0 for account in accounts):
        table("What the candidate's verifier did on the held-out queries", scorer_rows(accounts))
    say(as_served(ctx))
    flagship = flagship_cost_per_1000(report.overall.champion)
    if flagship:
        say(f"always asking the flagship would cost {flagship:.4f} USD per 1,000 queries")
    if report.payback_queries is not None:
        paid = f"what the run bought, and training, cost {report.run_cost_usd:.4f} USD"
        say(f"{paid}: earned back after {report.payback_queries:,} queries")
    else:
        say(f"queries until the run has paid for itself: {report.payback_why}")
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
    tail = f"champion is {aliases.get('champion')}"
    if promoted is None:
        waits = needs_word(found, ctx.config.gate) and "candidate" in aliases
        word = f"waits for `approve {ctx.run.run_id}` or `reject {ctx.run.run_id}`"
        tail += f" ({word})" if waits else " (dry run: nothing was changed)"
    colour = COLOURS.get(str(found.outcome), "yellow")
    say(f"[bold {colour}]{found.outcome.upper()}[/]: {tail}")
    if found.n_needed:
        say(f"about {found.n_needed} held-out queries would settle it")


def print_comparison(root: Path, held: float) -> None:
    """Figures by number of answers and arm, what each took, and the sentence that sums it up."""
    from flows.comparison import figures, read_comparison
    from flows.comparison_tables import headline, held_rows, price_rows, rows_of

    results = read_comparison(root)
    found = figures(results, held=held)
    table("Single results", [result.row() for result in results])
    table("What each arm takes (means over seeds)", price_rows([result.taken() for result in results]))
    table("Savings at equal flagship answers and training tokens", rows_of(found))
    table("The same at one quality, which all serve", held_rows(found))
    say(headline(found))
    say(f"\nreport: {(root / 'comparison.html').resolve()}")


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
    say(f"{state.traces.count()} traces in {state.traces_at or state.root}")
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
    arms = sum((stage / "manifest.json").exists() for stage in arm_stages(folder, EVALUATE))
    return (done[-1] if done else "nothing yet") + (f", {arms} arms evaluated" if arms else "")


def print_card(state: State, version: str) -> None:
    """A version's model card; its lineage where it was registered without one."""
    found = state.registry.resolve(version)
    card = state.registry.card(found.id)
    if card is None:
        say(f"{found.id} ({found.serving_name}) was registered without a model card")
    else:
        print(card, end="")
