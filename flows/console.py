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

from cascade.cost import cost_per_completed
from cascade.errors import StageError
from cascade.ingest import Ingested
from cascade.recorded import Usage
from cascade.verifiers import ScorerAccount
from flows.canary import CanaryResult
from flows.charts import cluster_map_png
from flows.context import RunContext, State
from flows.doctor import CheckResult
from flows.forget import ForgetPlan
from flows.look import Looked
from flows.monitor_page import check_rows
from flows.recorded import PolicyResult, RecordedReplay
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
from flows.serve import Replay
from flows.summary import (
    as_served,
    cluster_rows,
    flagship_cost_per_1000,
    lineage_rows,
    metric_rows,
    path_sentences,
)
from monitoring.records import Status
from promotion.approval import needs_word

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
    routed = f", {served.n_routed} of them routed" if served.n_routed else ""
    shown = "" if rate is None else f", {rate:.1%} escalated{routed}"
    cost = "unknown" if served.cost_usd is None else f"{served.cost_usd:.4f} USD"
    say(
        f"served {served.n} queries with {done.champion}{shown}, {served.n_audited} audited, cost {cost}"
        f" ({served.n_skipped} served before, {served.n_failed} failed)"
    )
    if len(served.accounts) > 2 or any(account.cost_usd != 0 for account in served.accounts):
        table("What the verifier did", account_table(served.accounts))
    each = cost_per_completed(served.cost_usd, served.n)
    if each is not None:
        say(f"cost per completed query: {each:.6f} USD")
    if served.failure:
        say(f"first failure: {served.failure}; run the same command again to retry")


def print_recorded(done: RecordedReplay) -> None:
    """A replay of recorded answers: policies at the quality asked for, the chosen one's frontier, what was served."""
    asked, (cheap, flagship, best) = done.settings, done.qualities
    if done.n_rejected:
        say(f"{done.n_rejected} unusable rows, with their reasons: {done.picture.with_name('rejected.jsonl')}")
    if done.n_unshared:
        say(f"{done.n_unshared} queries left out: not answered by all of the models")
    table(
        f"{asked.cheap} -> {asked.flagship}, thresholds for {asked.quality:.0%} of the flagship's quality, "
        f"on {done.n_test} test queries",
        [_recorded_row(row, row.name == done.chosen) for row in done.policies],
    )
    table(
        f"Frontier of {done.chosen} on the test part (cost in % of always-flagship, thresholds read off the test)",
        [
            {"at quality": f"{row['quality']:.0%}"}
            | {name: f"{100 * row[name]:.1f}" for name in ("cost", "random", "oracle")}
            for row in done.frontier
        ],
    )
    say(f"quality on the test part: cheap {cheap:.1%}, flagship {flagship:.1%}, oracle {best:.1%}")
    rate, cost = done.served.escalation_rate, done.served.cost_usd
    shown = "unknown" if cost is None or not done.served.n else f"{1000 * cost / done.served.n:.4f} USD per 1,000"
    say(
        f"the cascade itself served {done.served.n} test queries with {done.chosen}: {rate or 0:.1%} to the flagship, "
        f"quality {done.served_quality:.1%}, cost {shown}"
    )
    say(f"split by {done.split}: {done.n_fit} to fit, {done.n_calibration} to choose, {done.n_test} to test, used once")
    kinds = [str(kind) for kind in done.usage if kind is not Usage.RECORDED]
    if kinds:
        say(f"token counts are {' and '.join(kinds)}, so costs are too")
    say(f"\npicture: {done.picture.resolve()}")


def _recorded_row(row: PolicyResult, chosen: bool) -> dict[str, Any]:
    saving = row.saving
    return {
        "policy": f"{row.name} *" if chosen else row.name,
        "quality, % of flagship's": f"{100 * row.quality:.1f}",
        "cost, % of always-flagship": f"{100 * row.cost:.1f}",
        "USD per 1,000": f"{row.usd_per_1000:.4f}",
        "escalated": "-" if row.escalated is None else f"{row.escalated:.1%}",
        "saving over random, points (90 %)": "-"
        if saving is None
        else f"{100 * saving.value:+.1f} [{100 * saving.low:+.1f}, {100 * saving.high:+.1f}]",
    }


def print_ingested(done: Ingested) -> None:
    """What an ingest did, in a few lines."""
    if done.resumed_at:
        say(f"read on from byte {done.resumed_at:,}: what lies before is stored")
    say(f"{done.n_new} new traces, {done.n_known} known before, {done.n_rejected} rejected rows")
    if done.n_rejected:
        say(f"rejected rows with their reasons: {done.rejected_path}")
    if done.n_other:
        say("left out: " + ", ".join(f"{n} x {what}" for what, n in done.n_other.items()))
    if done.n_waiting:
        say(
            f"{done.n_waiting} queries of the log's last minutes wait for their other call: ingest the log again when"
            " it has grown, or with --complete when it is final"
        )


def account_table(accounts: Sequence[ScorerAccount]) -> list[dict[str, Any]]:
    """One row per scorer: how much it was asked, what it ended, and what that took."""
    return [
        {
            "scorer": account.name,
            "asked": account.n_asked,
            "had the last word": account.n_ended,
            "accepted": account.n_accepted,
            "could not judge": account.n_unparsed,
            "cost, USD": "unknown" if account.cost_usd is None else f"{account.cost_usd:.4f}",
            "seconds": "unknown" if account.latency_s is None else f"{account.latency_s:.2f}",
        }
        for account in accounts
    ]


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
        table("What the candidate's verifier did on the held-out queries", account_table(accounts))
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


def print_forget(plan: ForgetPlan, *, done: bool, runs: bool) -> None:
    """What was (or would be) deleted, what stays, and which adapters were trained on it."""
    times = [query.time for query in plan.traces]
    span = f"{min(times):%Y-%m-%d} to {max(times):%Y-%m-%d}" if times else "-"
    gone = "deleted" if done else "would be deleted"
    stays = f"stays ({len(plan.runs)} folders): --runs deletes it" if plan.runs else "-"
    rows: list[dict[str, Any]] = [
        {"held": "traces", "n": len(plan.traces), "what": gone, "of": span},
        {"held": "bought answers", "n": len(plan.answers), "what": gone, "of": "-"},
        {"held": "judges' replies", "n": len(plan.replies), "what": gone, "of": "-"},
        {"held": "cached embeddings", "n": plan.n_vectors, "what": gone, "of": "-"},
        {
            "held": "copies in runs",
            "n": sum(run.n_traces for run in plan.runs),
            "what": gone if runs else stays,
            "of": ", ".join(run.run_id for run in plan.runs) or "-",
        },
        {"held": "answers in verifiers", "n": sum(len(v.bank.ids) for v in plan.verifiers), "what": gone, "of": "-"},
    ]
    table("Forgetting", rows)
    left_enough = "rebuilt without them: its threshold was tested with them, `run` fits another"
    too_few = "withdrawn, too few are left to compare with: it cannot serve until `run` fits another"
    verifiers = [
        {
            "verifier": verifier.bank.digest[:12],
            "serves": ", ".join(verifier.versions) or "-",
            "answers": f"{len(verifier.bank.ids)} of {verifier.bank.n_entries}",
            "what": ("" if done else "would be ") + (left_enough if verifier.bank.usable else too_few),
        }
        for verifier in plan.verifiers
    ]
    if verifiers:
        table("Learned verifiers that compare with those answers", verifiers)
    adapters = [{"version": a.version, "adapter": a.adapter_digest[:12], "why": a.why} for a in plan.adapters]
    table("Adapters trained on it (they stay: roll back, or train anew)", adapters)
    if not adapters:
        say("no adapter was trained on it")
    if done and plan.verifiers:
        say("a process that serves keeps the verifier that it has loaded: restart it")
    if not done:
        say("nothing was changed: --yes deletes")


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


def print_watch(done: Looked) -> None:
    """A look: every check, what is behind the alarms, who was told, where the dashboard is."""
    watch = done.watch
    since = f"{watch.n:,} queries up to {watch.at[:16]}, compared with {watch.reference}"
    table(f"{watch.name}, {watch.version} in service: {since}", check_rows(watch))
    for check in watch.checks:
        if check.status is Status.UNKNOWN:
            say(f"[yellow]{check.name}[/]: cannot tell, {escape(check.sentence)}")
    for finding in watch.findings:
        say(f"[bold red]{str(finding.cause).upper()}[/], since the week of {finding.began}: {escape(finding.evidence)}")
        say(f"    do: {escape(finding.action)}")
    if not watch.findings and any(check.status is Status.OK for check in watch.checks):
        say("[bold green]nothing is out of bounds[/]")
    for warning in done.warnings:
        say(f"[yellow]{escape(warning)}[/]")
    say(f"\ndashboard: {done.dashboard.resolve()}")


def print_canary(done: CanaryResult) -> None:
    """How a candidate did on its share of the traffic."""
    say(f"{done.n_candidate} queries went to {done.candidate}, {done.n_champion} to {done.champion}: {done.sentence}")
    if done.taken_back_after is not None:
        say(f"[bold red]taken back[/] after {done.taken_back_after} queries: {done.champion} served the rest")
    elif done.standing == "not worse":
        say(f"[bold green]not worse[/]: `promote {done.candidate}` gives it all traffic")
    else:
        say("nothing is shown yet: give it more traffic")


def print_card(state: State, version: str) -> None:
    """A version's model card; its lineage where it was registered without one."""
    found = state.registry.resolve(version)
    card = state.registry.card(found.id)
    if card is None:
        say(f"{found.id} ({found.serving_name}) was registered without a model card")
    else:
        print(card, end="")


def _reached(folder: Path) -> str:
    done = sorted(path.parent.name for path in folder.glob("0*/manifest.json"))
    arms = sum((stage / "manifest.json").exists() for stage in arm_stages(folder, EVALUATE))
    return (done[-1] if done else "nothing yet") + (f", {arms} arms evaluated" if arms else "")


def print_checks(checks: Sequence[CheckResult]) -> None:
    """The doctor's findings."""
    table("doctor", [{"check": c.name, "result": "ok" if c.ok else "FAIL", "found": c.found} for c in checks])
