"""Forgetting: a user's data, or what is older than it may be kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from cascade.errors import InputError
from flows.commands.shared import DEMO, Config, opened


def forget(
    user: Annotated[str | None, typer.Option(help="A user's key, or the name that was hashed to it.")] = None,
    older_than: Annotated[float | None, typer.Option(help="Days that traces may be kept.", min=0)] = None,
    config: Config = DEMO,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it nothing is changed.")] = False,
    runs: Annotated[bool, typer.Option("--runs", help="Delete the folders of runs that hold copies, too.")] = False,
) -> None:
    """Delete a user's traces, or old ones, with the answers bought for them; lists the adapters trained on them.

    Shows what it finds and deletes nothing unless --yes is given. The answers also go from the learned verifiers that
    compare with them: these are rebuilt without them, and listed. Adapters cannot forget: those trained on the data are
    listed, to roll back or to train anew.
    """
    from flows.forget import Whose, plan_forget
    from flows.forget import forget as delete
    from flows.forget_tables import print_forget

    if user is None and older_than is None:
        raise InputError("nothing to forget: name a --user, or the days of --older-than")
    before = None if older_than is None else datetime.now(UTC) - timedelta(days=older_than)
    with opened(config, start_lab=False) as (settings, _):
        plan = plan_forget(settings, Whose(user, before))
        if yes:
            delete(settings, plan, runs=runs)
        print_forget(plan, done=yes, runs=runs)
