"""Checks before money is spent: doctor."""

from __future__ import annotations

import typer

from flows.commands.shared import DEMO, Config, opened


def doctor(config: Config = DEMO) -> None:
    """Check what a run needs (packages, models, endpoint, key, prices, folders) before money is spent."""
    from flows.console import print_checks
    from flows.doctor import check_all

    with opened(config) as (settings, _):
        checks = check_all(settings)
    print_checks(checks)
    raise typer.Exit(0 if all(check.ok for check in checks) else 2)
