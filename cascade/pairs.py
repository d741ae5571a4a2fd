"""Calls of a cheap model and a flagship to traces of a cascade.

Two calls belong to one query when they share the trace id and the last user message (a trace may hold a session).
A cheap call alone was accepted; a cheap and a flagship call are an escalation, unless one of them is tagged "audit"
(the flagship checked an accepted answer) or its metadata say `escalated: false`; a flagship call alone is a routed
query where the reader allows them. Of several calls of one model the last one counts: the others were retries.

Exports are ordered by time, in either direction. A query is settled once the log has moved on by `settle_s` from its
last call; before that its other call may still come, so it waits, and what still waits at the log's end is left for
the next reading (`Pairs.waiting`) unless the log is said to be complete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from cascade.cost import PriceTable
from cascade.generations import Generation, Other
from cascade.rows import Line
from cascade.trace import Answer, Outcome, Query, Trace, Verdict

Tier = Literal["cheap", "flagship"]
AUDIT_TAG = "audit"
FROM_A_LOG = "from a log"


@dataclass(frozen=True, slots=True)
class CascadeModels:
    """Which calls of a log are the cascade's, and what they are called in the price table."""

    cheap: str
    flagship: str
    version: str | None = None
    """Version that the cheap answers are traced under; None: the cheap model's name."""
    audit_rate: float = 0.0
    """Share of accepted answers (0..1) that the log's cascade audits."""
    routed: bool = False
    """A flagship call alone is a query that a router sent there, not a fault."""
    settle_s: float = 600.0
    """How long after one call of a query the other one may come."""

    def tier(self, names: tuple[str, ...]) -> Tier:
        """Raises Other for a third model."""
        if self.cheap in names:
            return "cheap"
        if self.flagship in names:
            return "flagship"
        raise Other(f"call of {names[0][:80]}")


@dataclass(slots=True)
class Group:
    """The calls of one query so far, and the lines that they came from."""

    calls: dict[Tier, Generation] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)

    @property
    def last(self) -> datetime:
        return max(call.time for call in self.calls.values())

    @property
    def first(self) -> datetime:
        return min(call.time for call in self.calls.values())


class Pairs:
    """Takes calls one by one; gives groups once they are settled."""

    def __init__(self, models: CascadeModels) -> None:
        self.models = models
        self._open: dict[tuple[str, str], Group] = {}

    @property
    def waiting(self) -> list[Line]:
        """Lines of the queries that are not settled."""
        return [line for group in self._open.values() for line in group.lines]

    @property
    def n_waiting(self) -> int:
        return len(self._open)

    def take(self, call: Generation, line: Line) -> Iterator[Group]:
        """Add a call; yields what it settles. Raises Other for a call of a third model."""
        tier = self.models.tier(call.names)
        group = self._open.setdefault((call.trace_id, _last_user_text(call)), Group())
        group.lines.append(line)
        known = group.calls.get(tier)
        if known is None or known.time <= call.time:
            group.calls[tier] = call
        yield from self._settled(call.time)

    def rest(self) -> Iterator[Group]:
        """What still waits, as it is."""
        while self._open:
            yield self._open.pop(next(iter(self._open)))

    def _settled(self, now: datetime) -> Iterator[Group]:
        while self._open:
            key, group = next(iter(self._open.items()))
            apart = max((now - group.last).total_seconds(), (group.first - now).total_seconds())
            if apart <= self.models.settle_s:
                return
            yield self._open.pop(key)


def to_trace(group: Group, models: CascadeModels, prices: PriceTable) -> Trace:
    """A settled query's trace. Raises ValueError with the reason where it is none, ConfigError without a price."""
    cheap, flagship = group.calls.get("cheap"), group.calls.get("flagship")
    asked = cheap or flagship
    assert asked is not None
    if cheap is None and not models.routed:
        raise ValueError(
            f"the flagship's call has no call of {models.cheap} in trace {asked.trace_id}: a routed query needs"
            " --routed, a late one a longer --settle-minutes"
        )
    escalated = flagship is not None and _escalated(group)
    small = None if cheap is None else replace(cheap.answer, model=models.cheap)
    large = None if flagship is None else replace(flagship.answer, model=models.flagship)
    cheap_usd = 0.0 if small is None else _cost(small, cheap, prices)
    flagship_usd = 0.0 if large is None else _cost(large, flagship, prices)
    total = None if cheap_usd is None or flagship_usd is None else cheap_usd + flagship_usd
    rejected = Outcome.UNPARSED if small is None else Outcome.REJECT
    return Trace(
        query=_query(asked, group.first),
        cheap=small,
        cheap_version=models.version or models.cheap,
        verdict=Verdict(rejected if escalated else Outcome.ACCEPT, None, (FROM_A_LOG,)),
        escalated=escalated,
        audited=flagship is not None and not escalated,
        audit_propensity=models.audit_rate,
        flagship=large,
        cost_usd=total if escalated else cheap_usd,
        audit_cost_usd=0.0 if escalated else flagship_usd,
    )


def _escalated(group: Group) -> bool:
    said = [call.escalated for call in group.calls.values() if call.escalated is not None]
    if said:
        return all(said)
    return not any(AUDIT_TAG in call.tags for call in group.calls.values())


def _cost(answer: Answer, call: Generation | None, prices: PriceTable) -> float | None:
    """By the price table, so that all traces are priced alike; as logged where the tokens are unknown."""
    known = prices.cost_usd(answer, None if call is None else call.time)
    return call.cost_usd if known is None and call is not None else known


def _query(asked: Generation, time: datetime) -> Query:
    digest = hashlib.sha256(_last_user_text(asked).encode()).hexdigest()[:8]
    return Query(
        id=f"{asked.trace_id}:{digest}", time=time, route=asked.route, messages=asked.messages, user=asked.user
    )


def _last_user_text(call: Generation) -> str:
    return next(m["content"] for m in reversed(call.messages) if m["role"] == "user" and m["content"].strip())
