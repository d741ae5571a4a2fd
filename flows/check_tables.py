"""What the doctor's and the monitor's checks print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from flows.console import say, table
from flows.doctor import CheckResult
from flows.look import Looked
from flows.monitor_page import check_rows
from monitoring.records import Status


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


def print_checks(checks: Sequence[CheckResult]) -> None:
    """The doctor's findings."""
    table("doctor", [{"check": c.name, "result": "ok" if c.ok else "FAIL", "found": c.found} for c in checks])
