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
    from flows.deploy import promote_version

    with opened(config, start_lab=False) as (settings, _):
        promote_version(settings, state_of(config, run_id), version, who=user(), why=why)
    say(f"champion is {version}; `rollback` restores the one before")


def rollback(
    why: Annotated[str, typer.Option(help="Reason, kept in the history.")] = "rolled back by hand",
    config: Config = DEMO,
    run_id: RunId = None,
) -> None:
    """Make the previous version the champion again."""
    from flows.console import say
    from flows.deploy import roll_back

    with opened(config, start_lab=False) as (settings, _):
        champion = roll_back(settings, state_of(config, run_id), who=user(), why=why)
    say(f"champion is {champion.id} again")


def status(
    version: Annotated[
        str | None, typer.Argument(help="Show this version's model card and lineage instead, as v3 or champion.")
    ] = None,
    config: Config = DEMO,
    run_id: RunId = None,
) -> None:
    """Champion, versions, history and runs; or one version's model card."""
    from flows.run_tables import print_card, print_status

    with opened(config, start_lab=False) as (settings, _):
        state = state_of(config, run_id)
        if version is None:
            print_status(state, settings.runs)
        else:
            print_card(state, version)
