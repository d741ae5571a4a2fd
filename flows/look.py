"""One look from the checks to the people: dashboard, metrics, and those who are to be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flows.alarms import tell
from flows.config import RunConfig
from flows.context import State
from flows.metrics import write_metrics
from flows.monitor_page import write_dashboard
from flows.rundir import write_json
from flows.watching import folder_of, watch
from monitoring.records import Finding, Watch


@dataclass(frozen=True, slots=True)
class Looked:
    """A finished look."""

    watch: Watch
    told: tuple[Finding, ...]
    """Findings that are news: the new ones, and those that nobody was reminded of for long."""
    warnings: tuple[str, ...]
    """Channels that did not take them."""
    dashboard: Path


def look_once(config: RunConfig, state: State, *, notify: bool = True) -> Looked:
    """Look, write dashboard and metrics below the state folder, and tell of what is new."""
    found, folder = watch(config, state), folder_of(state)
    write_json(folder / "watch.json", found.to_dict())
    write_metrics(folder / "metrics.prom", found)
    dashboard = folder / "dashboard.html"
    write_dashboard(dashboard, found)
    if not notify:
        return Looked(found, (), (), dashboard)
    news, warnings = tell(folder, found, config.monitor)
    return Looked(found, tuple(news), tuple(warnings), dashboard)
