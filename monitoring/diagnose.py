"""From checks to causes: one thing that went wrong can fire several checks, and is named once."""

from __future__ import annotations

from collections.abc import Sequence

from monitoring.records import Cause, Check, Finding, Name, Status

ACTIONS = {
    Cause.TRAFFIC: "start an improvement run (`run`): it buys answers for what is new and refits the verifier",
    Cause.LENIENT: "users get wrong answers now: `rollback`, or refit the verifier with a run (`run`); see who changed "
    "it in `status`",
    Cause.STRICT: "good answers are paid for twice: `rollback`, or refit the verifier with a run (`run`); see who "
    "changed it in `status`",
    Cause.PRICES: "check the price table and the contract; the break-even escalation rate moved, so compare other "
    "flagships (`replay --recorded`)",
    Cause.ANSWERS: "traffic and verifier are as they were: check what serves the cheap model (weights, template, "
    "quantisation), then start an improvement run (`run`)",
    Cause.COST: "the cascade saves little: look at what escalates (`clusters`) and at the prices",
}


def diagnose(checks: Sequence[Check]) -> tuple[Finding, ...]:
    """The causes behind the alarms, each alarm in at least one. Empty when nothing fired.

    A changed price and a changed verifier are seen directly: prices on the same tokens, the verifier on answers that
    do not move. Traffic is seen on the queries alone. What is left, more escalations or more wrong answers of the same
    kind of traffic under the same verifier, are the answers.
    """
    fired = {check.name: check for check in checks if check.status is Status.ALARM}
    causes: dict[Cause, list[Name]] = {}
    if Name.PRICE in fired:
        causes[Cause.PRICES] = [Name.PRICE]
    verifier = fired.get(Name.VERIFIER)
    if verifier is not None:
        causes[Cause.STRICT if verifier.falling else Cause.LENIENT] = [Name.VERIFIER]
    drifted: list[Name] = [name for name in (Name.DRIFT, Name.NEW) if name in fired]
    if drifted:
        causes[Cause.TRAFFIC] = drifted
    for name, explains in (
        (Name.ESCALATION, (Cause.STRICT, Cause.TRAFFIC)),
        (Name.QUALITY, (Cause.LENIENT, Cause.TRAFFIC)),
    ):
        if name in fired:
            behind = [cause for cause in explains if cause in causes] or [Cause.ANSWERS]
            for cause in behind:
                causes.setdefault(cause, []).append(name)
    if Name.COST in fired:
        behind = [cause for cause in causes if cause is not Cause.LENIENT] or [Cause.COST]
        for cause in behind:
            causes.setdefault(cause, []).append(Name.COST)
    return tuple(_finding(cause, [fired[name] for name in names]) for cause, names in causes.items())


def _finding(cause: Cause, checks: Sequence[Check]) -> Finding:
    weeks = [check.began for check in checks if check.began is not None]
    evidence = "; ".join(f"{check.name}: {check.sentence}" for check in checks)
    return Finding(cause, min(weeks), tuple(check.name for check in checks), evidence, ACTIONS[cause])
