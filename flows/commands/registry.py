"""Versions and aliases by hand: status, promote, rollback."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.shared import DEMO, Config, RunId, opened, state_of, user


def promote(
    version: Annotated[str, typer.Argument(help="Version id, as `status` shows it.")],
    why: Annotated[str, typer.Option(help="Reason, kept in the history.")],
    config: Config = DEMO,
    run_id: RunId = None,
) -> None:
    """Make a registered version the champion by hand; the champion becomes the previous one."""
    from flows.console import say

    state = state_of(config, run_id)
    promoted = state.registry.promote(version, who=user(), why=why)
    say(f"champion is {promoted.id}; `rollback` restores the one before")


def rollback(
    why: Annotated[str, typer.Option(help="Reason, kept in the history.")] = "rolled back by hand",
    config: Config = DEMO,
    run_id: RunId = None,
) -> None:
    """Make the previous version the champion again."""
    from flows.console import say

    champion = state_of(config, run_id).registry.rollback(who=user(), why=why)
    say(f"champion is {champion.id} again")


def status(config: Config = DEMO, run_id: RunId = None) -> None:
    """Champion, versions, history and runs."""
    from flows.console import print_status

    with opened(config, start_lab=False) as (settings, _):
        print_status(state_of(config, run_id), settings.runs)
