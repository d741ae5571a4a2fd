"""The monitor's dashboard: one HTML file, pictures inline, readable offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows import charts
from flows.report import TEMPLATES
from flows.rundir import write_text
from monitoring.records import Check, Name, Watch

AS_POINTS = frozenset({Name.DRIFT})
"""Checks whose values are no shares."""


def write_dashboard(path: Path, watch: Watch) -> None:
    """Render a look."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    checks = [_check(check) for check in watch.checks]
    page = environment.get_template("monitor.html.j2").render(watch=watch, checks=checks)
    write_text(path, page)


def check_rows(watch: Watch) -> list[dict[str, Any]]:
    """One row per check, for tables."""
    return [
        {
            "check": str(check.name),
            "status": str(check.status),
            "value": shown(check.name, check.value),
            "interval": "-"
            if check.low is None
            else f"[{shown(check.name, check.low)}, {shown(check.name, check.high)}]",
            "bar": shown(check.name, -check.bar if check.falling and check.bar is not None else check.bar),
            "n": f"{check.n:,}",
            "since the week of": str(check.began or "-"),
        }
        for check in watch.checks
    ]


def shown(name: Name, value: float | None) -> str:
    """A check's number as people read it."""
    if value is None:
        return "-"
    return f"{value:.3f}" if name in AS_POINTS else f"{value:.1%}"


def _check(check: Check) -> dict[str, Any]:
    chart = charts.weeks(check) if check.series else None
    return {"check": check, "value": shown(check.name, check.value), "chart": chart}
