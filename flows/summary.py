"""A run in rows: what the tables in the terminal, in Prefect's artifacts and in the HTML report show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cascade.verifiers import ScorerAccount
from clustering.causes import Cause
from clustering.cluster import Clustering
from clustering.describe import Cluster
from clustering.lineage import Fate
from evaluation.intervals import Interval
from evaluation.metrics import SideMetrics
from evaluation.report import EvaluationReport
from flows.context import RunContext
from flows.records import EVALUATE, load_report

Row = dict[str, Any]


def before_after_rows(ctx: RunContext) -> list[Row]:
    """Champion, candidate and their difference, one row per metric."""
    return metric_rows(load_report(ctx.run.stage(EVALUATE)))


def metric_rows(report: EvaluationReport) -> list[Row]:
    """One row per metric: name, before, after, difference, each with its interval."""
    before, after, paired = report.overall.champion, report.overall.candidate, report.overall.paired
    right = "flagship" if report.reference_kind == "flagship" else "reference"
    return [
        _row("escalation rate", percent(before.escalation_rate), percent(after.escalation_rate),
             cut(paired.escalation_cut)),
        _row("cost per 1,000 queries", usd(before.cost_per_1000_usd), usd(after.cost_per_1000_usd),
             cut(paired.cost_saving)),
        _row("cost / always-flagship", percent(before.ratio_to_flagship), percent(after.ratio_to_flagship), ""),
        _row(f"quality served (equal to {right})", percent(before.quality), percent(after.quality),
             points(paired.quality_difference)),
        _row("cheap answers right", percent(before.cheap_quality), percent(after.cheap_quality), ""),
        _row("wrong among accepted", percent(before.accepted_error), percent(after.accepted_error), ""),
    ]  # fmt: skip


def as_served(ctx: RunContext) -> str:
    """How the held-out queries were really served, before any verifier was refitted: one sentence."""
    manifest = ctx.run.manifest(EVALUATE)
    found = manifest.counts["as_served"] if manifest else {"escalation_rate": None, "quality": None}
    rate, quality = share(found["escalation_rate"]), share(found["quality"])
    return (
        f"as served at the time, {rate} were escalated and {quality} answered right; before and after are at the same"
        " quality target, each with a refitted verifier"
    )


def flagship_cost_per_1000(side: SideMetrics) -> float | None:
    """What always asking the flagship would cost per 1,000 queries, in USD."""
    cost, ratio = side.cost_per_1000_usd, side.ratio_to_flagship
    return cost.value / ratio.value if cost and ratio and ratio.value > 0 else None


def cluster_rows(
    clusters: Sequence[Cluster], selected: dict[int, int] | None = None, fates: Sequence[Fate] = ()
) -> list[Row]:
    """One row per cluster, in order of their numbers."""
    by_cluster = {fate.cluster: fate for fate in fates}
    return [
        {
            "cluster": c.id,
            **({"id": by_cluster[c.id].uid, "state": str(by_cluster[c.id].state)} if c.id in by_cluster else {}),
            "terms": c.title or ", ".join(c.terms[:4]),
            "queries": c.size,
            "share": f"{c.share:.1%}",
            "cheap wrong": c.n_cheap_wrong,
            "cheap right": c.n_cheap_right,
            **({"chosen": selected.get(c.id, 0)} if selected is not None else {}),
        }
        for c in clusters
    ]


def lineage_rows(
    clusters: Sequence[Cluster], fates: Sequence[Fate], first_seen: Mapping[str, str], names: Mapping[str, str]
) -> list[Row]:
    """One row per cluster of the run and per earlier one: identity, size, cost share, state, causes."""
    described = {c.id: c for c in clusters}
    total = total_cost(clusters)
    rows = []
    for fate in fates:
        cluster = described.get(fate.cluster) if fate.cluster is not None else None
        cost = cluster.escalated_cost_usd if cluster else 0.0
        causes = cluster.causes if cluster else {}
        rows.append(
            {
                "id": fate.uid,
                "name": names.get(fate.uid, cluster.name if cluster else "-"),
                "state": str(fate.state),
                "queries": cluster.size if cluster else 0,
                "texts": cluster.n_distinct if cluster and cluster.n_distinct is not None else "-",
                "cost share": "unknown" if cost is None or not total else f"{cost / total:.1%}",
                "first seen": first_seen.get(fate.uid, "-"),
                **{str(cause): causes.get(str(cause), 0) for cause in Cause},
            }
        )
    return rows


def total_cost(clusters: Sequence[Cluster]) -> float | None:
    """What the escalations of all clusters cost; None when any of it is unknown."""
    costs = [c.escalated_cost_usd for c in clusters]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def path_sentences(clustering: Clustering) -> list[tuple[str, str]]:
    """How the clusters came about: (what, value) pairs for a table."""
    path = clustering.path
    if path is None:
        return [("method", clustering.method), ("noise", f"{clustering.noise_share:.1%}")]
    sampled = f", {path.n_sampled:,} sampled" if path.n_sampled < path.n_points else ""
    merged = "-" if path.n_leaves is None else f"{path.n_leaves}, {clustering.n_clusters}"
    return [
        ("method", clustering.method),
        ("reduction", path.reduction),
        ("distinct texts", f"{path.n_points:,}{sampled}"),
        ("smallest group", f"{path.min_cluster_size} texts"),
        ("HDBSCAN's groups, merged into", merged),
        *([("rare clusters of the sample that were two", f"{path.n_parted}")] if sampled else []),
        ("noise before the policy", "-" if path.noise_before is None else f"{path.noise_before:.1%}"),
        ("noise adopted by a near cluster", f"{path.n_adopted:,} texts"),
        ("noise after the policy", f"{path.noise_after:.1%}"),
        ("fallback", path.fallback or "not needed"),
    ]


def share(value: float | None) -> str:
    """A rate without an interval."""
    return "unknown" if value is None else f"{value:.1%}"


def percent(interval: Interval | None) -> str:
    """A rate with its interval."""
    if interval is None:
        return "-"
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def usd(interval: Interval | None) -> str:
    """A cost with its interval, in USD."""
    if interval is None:
        return "unknown"
    return f"{interval.value:.4f} USD [{interval.low:.4f}, {interval.high:.4f}]"


def cut(interval: Interval | None) -> str:
    """A relative saving, shown as the change that it is: a saving of 0.3 is -30 %."""
    if interval is None:
        return "-"
    return f"{-interval.value:+.1%} [{-interval.high:+.1%}, {-interval.low:+.1%}]"


def points(interval: Interval) -> str:
    """A difference of rates in percentage points."""
    return f"{100 * interval.value:+.2f} points [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"


def _row(name: str, before: str, after: str, difference: str) -> Row:
    return {"metric": name, "before": before, "after": after, "change": difference}


def scorer_rows(accounts: Sequence[ScorerAccount]) -> list[Row]:
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
