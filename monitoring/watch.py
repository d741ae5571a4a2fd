"""One look: all checks over the weeks since the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

from cascade.cost import PriceTable
from monitoring.diagnose import diagnose
from monitoring.drift import Embed, check_drift
from monitoring.fixed_set import Judge, check_verifier
from monitoring.policy import MonitorPolicy
from monitoring.rates import check_cost, check_escalation, check_price, check_quality
from monitoring.records import Name, Watch, unknown
from monitoring.reference import Reference
from monitoring.tally import Tally, by_week, monday


@dataclass(frozen=True, slots=True)
class Service:
    """What serves now."""

    name: str
    """Of the configuration."""
    version: str
    verifier: Judge | None
    promised: float
    """Share of wrong answers among the accepted that the verifier promises to keep below."""
    prices: PriceTable
    embed: Embed


def look(
    service: Service, reference: Reference, days: Mapping[date, Tally], at: datetime, policy: MonitorPolicy
) -> Watch:
    """Run every check. `days` holds the traffic since the reference's end, `at` is the time of its newest trace."""
    weeks = dict(list(by_week(days, policy.sample).items())[-policy.weeks :])
    since = min((t.versions[service.version] for t in weeks.values() if service.version in t.versions), default=at)
    replayed = check_verifier(reference.rows, service.verifier, monday(since), policy)
    checks = [unknown(name, "no traffic since the reference") for name in Name if name is not Name.VERIFIER]
    if weeks:
        checks = [
            check_escalation(weeks, reference, policy),
            check_quality(weeks, service.promised, policy),
            check_cost(weeks, policy),
            check_price(weeks, reference, service.prices, policy, at),
            *check_drift(weeks, list(reference.texts.values()), service.embed, policy),
        ]
    checks.append(replayed)
    return Watch(
        name=service.name,
        version=service.version,
        reference=f"{reference.version}: {reference.source}",
        at=at.isoformat(timespec="seconds"),
        n=sum(week.n for week in weeks.values()),
        checks=tuple(checks),
        findings=diagnose(checks),
    )


def waiting(service: Service, why: str, at: datetime, n: int) -> Watch:
    """A look at a cascade that has no reference yet: nothing can be compared."""
    checks = tuple(unknown(name, why) for name in Name)
    return Watch(service.name, service.version, why, at.isoformat(timespec="seconds"), n, checks, ())
