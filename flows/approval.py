"""A person's word on a run's candidate: kept in the run's folder, then acted upon."""

from __future__ import annotations

from datetime import UTC, datetime

from cascade.errors import InputError
from flows.assess import promote
from flows.context import RunContext
from flows.records import DECIDE, PROMOTE, approval_path, decision_digest, load_approval, load_decision
from flows.rundir import write_json
from promotion.approval import Approval, Word, needs_word


def speak(ctx: RunContext, word: Word, who: str, why: str) -> None:
    """Approve or reject the run's candidate. Killed between the two steps, it is finished by saying the same again.

    Raises InputError when the run waits for no word, or another one was given before.
    """
    run_id = ctx.run.run_id
    if ctx.run.manifest(DECIDE) is None or not needs_word(load_decision(ctx), ctx.config.gate):
        raise InputError(f"run {run_id} waits for no approval: its decision is in `report {run_id}`")
    before = load_approval(ctx)
    if before is not None and before.word is not word and ctx.run.manifest(PROMOTE) is not None:
        raise InputError(
            f"run {run_id} was {before.word}d by {before.who} on {before.when[:19]} ({before.why}): use `promote` or "
            "`rollback` to change what serves"
        )
    if before is None or before.word is not word:  # a word that could not be acted upon may be taken back
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(approval_path(ctx), Approval(run_id, word, who, now, why, decision_digest(ctx)).to_dict())
    promote(ctx, who)
