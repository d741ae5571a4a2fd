"""A run in rows: what the tables in the terminal, in Prefect's artifacts and in the HTML report show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clustering.describe import Cluster
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


def cluster_rows(clusters: Sequence[Cluster], selected: dict[int, int] | None = None) -> list[Row]:
    """One row per cluster, largest first."""
    return [
        {
            "cluster": c.id,
            "terms": ", ".join(c.terms[:4]),
            "queries": c.size,
            "share": f"{c.share:.1%}",
            "cheap wrong": c.n_cheap_wrong,
            "cheap right": c.n_cheap_right,
            **({"chosen": selected.get(c.id, 0)} if selected is not None else {}),
        }
        for c in clusters
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
