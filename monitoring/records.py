"""What the monitor says: points of a series, checks, findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from enum import StrEnum
from typing import Any


class Name(StrEnum):
    """The checks."""

    ESCALATION = "escalation rate"
    VERIFIER = "verifier on the fixed set"
    COST = "cost, share of always-flagship"
    PRICE = "price of the same tokens"
    QUALITY = "wrong among accepted"
    DRIFT = "query drift (AUC)"
    NEW = "queries in new clusters"


class Status(StrEnum):
    """UNKNOWN (too little to tell) is not OK."""

    OK = "ok"
    ALARM = "alarm"
    UNKNOWN = "unknown"


class Cause(StrEnum):
    """What is behind one or several alarms."""

    TRAFFIC = "the traffic changed"
    LENIENT = "the verifier became lenient"
    STRICT = "the verifier rejects more"
    PRICES = "prices rose"
    ANSWERS = "the answers got worse"
    COST = "the cascade costs too much"


@dataclass(frozen=True, slots=True)
class Point:
    """One week of a series; the interval is at the test's own confidence."""

    week: date
    """Its Monday."""
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Check:
    """One check at one look."""

    name: Name
    status: Status
    sentence: str
    """What was seen, or why nothing can be said."""
    bar: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    began: date | None = None
    """Monday of the week in which it began; None where there is no alarm."""
    series: tuple[Point, ...] = ()
    baseline: float | None = None
    falling: bool = False
    """True where the value fell: it is negative, and is measured against the negative of the bar."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause, with the checks that speak for it and what to do."""

    cause: Cause
    began: date
    checks: tuple[Name, ...]
    evidence: str
    action: str

    @property
    def improvable(self) -> bool:
        """Whether an improvement run is the cure."""
        return self.cause in (Cause.TRAFFIC, Cause.ANSWERS)


@dataclass(frozen=True, slots=True)
class Watch:
    """Everything that one look found."""

    name: str
    """Of the configuration."""
    version: str
    reference: str
    """What the checks compare with, in words."""
    at: str
    """Time of the newest trace, ISO 8601."""
    n: int
    """Queries looked at."""
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]

    @property
    def alarms(self) -> tuple[Check, ...]:
        """The checks that fired."""
        return tuple(check for check in self.checks if check.status is Status.ALARM)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def unknown(name: Name, why: str, series: Sequence[Point] = (), **fields: Any) -> Check:
    """A check that cannot tell."""
    return Check(name, Status.UNKNOWN, why, series=tuple(series), **fields)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value
