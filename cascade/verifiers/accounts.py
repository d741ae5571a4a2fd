"""Who judged how much, at what price: the accounts of a verifier's scorers, drawn up from its verdicts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cascade.trace import Outcome, Verdict

RULES = "rules"


@dataclass(frozen=True, slots=True)
class ScorerAccount:
    """What one scorer (or the rules) did over a set of answers."""

    name: str
    n_asked: int
    n_ended: int
    """Answers on which it had the last word; the rest went on to the next scorer."""
    n_accepted: int
    """Of these, accepted."""
    n_unparsed: int
    """Of these, it could not judge."""
    cost_usd: float | None
    """In all; None when the charge for any answer is unknown."""
    latency_s: float | None
    """Summed over the answers; None when any is unknown."""


def scorer_accounts(verdicts: Iterable[Verdict]) -> tuple[ScorerAccount, ...]:
    """One account per scorer, in the order of the chain, the rules first. Routed queries count nowhere."""
    all_verdicts = [verdict for verdict in verdicts if verdict.outcome is not Outcome.ROUTED]
    ruled = sum(not v.opinions for v in all_verdicts)
    accounts = [ScorerAccount(RULES, len(all_verdicts), ruled, 0, 0, 0.0, 0.0)] if all_verdicts else []
    names = dict.fromkeys(o.scorer for v in sorted(all_verdicts, key=lambda v: -len(v.opinions)) for o in v.opinions)
    return (*accounts, *(_account(name, all_verdicts) for name in names))


def _account(name: str, verdicts: list[Verdict]) -> ScorerAccount:
    asked = [opinion for v in verdicts for opinion in v.opinions if opinion.scorer == name]
    ended = [v for v in verdicts if v.opinions and v.opinions[-1].scorer == name]
    return ScorerAccount(
        name=name,
        n_asked=len(asked),
        n_ended=len(ended),
        n_accepted=sum(v.accepted for v in ended),
        n_unparsed=sum(v.outcome is Outcome.UNPARSED for v in ended),
        cost_usd=add_known(opinion.cost_usd for opinion in asked),
        latency_s=add_known(opinion.latency_s for opinion in asked),
    )


def add_known(values: Iterable[float | None]) -> float | None:
    """The sum; None when any is unknown."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total
