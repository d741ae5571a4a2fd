"""The records of one served query: what was asked, answered, judged, and paid.

All are frozen dataclasses. An unknown value is None, never 0.0. Rates and probabilities are 0..1,
costs are US dollars, times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

Message = dict[str, str]
JsonSchema = dict[str, Any]


class Outcome(StrEnum):
    """What became of a cheap answer; UNPARSED (the verifier could not judge) is never an acceptance."""

    ACCEPT = "accept"
    REJECT = "reject"
    UNPARSED = "unparsed"
    ROUTED = "routed"
    """There is none: the router sent the query straight to the flagship."""


@dataclass(frozen=True, slots=True)
class Query:
    """One request of the traffic, before anybody answered it."""

    id: str
    time: datetime
    route: str
    messages: tuple[Message, ...]
    schema: JsonSchema | None = None
    reference: str | None = None
    """A known right answer, where the traffic carries one (labels, corrected feedback)."""
    user: str | None = None
    """Hashed user key."""

    @property
    def text(self) -> str:
        """The last user message: what is embedded, clustered and shown."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")


@dataclass(frozen=True, slots=True)
class TokenConfidence:
    """Summary of an answer's per-token log-probabilities (natural log), end-of-turn token included."""

    n_tokens: int
    mean_logprob: float
    min_logprob: float
    p10_logprob: float
    margin: float | None
    """UCCI's uncertainty u = 1 - mean(p1 - p2) over tokens, from the two likeliest tokens; 0..1,
    higher is less sure. None where the endpoint gave no second choice."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer with its usage. A missing token count makes its cost unknown (None)."""

    text: str
    model: str
    """Name of the model and version that answered, as used in the price table."""
    tokens_in: int | None
    tokens_out: int | None
    latency_s: float | None
    finish_reason: str
    """"stop" (the model ended its turn), "length" (cut off), or what the endpoint said."""
    confidence: TokenConfidence | None = None


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one scorer of a verifier said of one answer, and what that took."""

    scorer: str
    value: float | None
    """On the scorer's own scale, higher is surer that the answer is right; None when it could not judge."""
    cost_usd: float | None
    latency_s: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's judgement of one answer."""

    outcome: Outcome
    p_wrong: float | None
    """Calibrated probability that the answer is wrong; None where a rule decided."""
    reasons: tuple[str, ...]
    score: float | None = None
    """Value of the scorer that ended the matter, on its own scale; None where a rule decided."""
    cost_usd: float | None = 0.0
    """What all asked scorers charged; None when any of it is unknown."""
    latency_s: float | None = 0.0
    """What all asked scorers took, one after the other; None when any of it is unknown."""
    opinions: tuple[Opinion, ...] = ()
    """The scorers that were asked, in order; the last one ended the matter. None were where a rule decided."""

    @property
    def accepted(self) -> bool:
        return self.outcome is Outcome.ACCEPT


@dataclass(frozen=True, slots=True)
class Trace:
    """One query's way through the cascade."""

    query: Query
    cheap: Answer | None
    """None where the router sent the query straight to the flagship."""
    cheap_version: str
    """Registry version (model + adapter + verifier) that served the query."""
    verdict: Verdict
    escalated: bool
    audited: bool
    """True when an accepted answer was also sent to the flagship."""
    audit_propensity: float
    """Probability with which this query's answer would be audited had it been accepted."""
    flagship: Answer | None
    cost_usd: float | None
    """Serving cost: cheap + verifier + (if escalated) flagship. The audit's own cost is apart."""
    audit_cost_usd: float | None = 0.0

    @property
    def routed(self) -> bool:
        """True when the router spared the query its cheap attempt."""
        return self.cheap is None

    @property
    def served_text(self) -> str:
        """The answer that the user got; empty where a routed query's trace carries none."""
        served = self.flagship if self.escalated and self.flagship is not None else self.cheap
        return "" if served is None else served.text


def plain(record: Any) -> dict[str, Any]:
    """`dataclasses.asdict` of a record with slots, its tuples as lists, without the deep copies, which would cost half
    of the time that loading a log takes."""
    values = {}
    for name in record.__slots__:
        value = getattr(record, name)
        if isinstance(value, tuple):
            value = [plain(item) if is_dataclass(item) else item for item in value]
        values[name] = plain(value) if is_dataclass(value) else value
    return values


def query_to_dict(query: Query) -> dict[str, Any]:
    """JSON-ready form of a query (the row format of a traffic file)."""
    return {**plain(query), "time": query.time.isoformat()}


def query_from_dict(row: dict[str, Any]) -> Query:
    """Inverse of `query_to_dict`; unknown keys are ignored. Raises KeyError or ValueError on a bad row."""
    return Query(
        id=str(row["id"]),
        time=datetime.fromisoformat(row["time"]),
        route=str(row.get("route", "default")),
        messages=tuple([{"role": str(m["role"]), "content": str(m["content"])} for m in row["messages"]]),
        schema=row.get("schema"),
        reference=row.get("reference"),
        user=row.get("user"),
    )


def answer_from_dict(row: dict[str, Any]) -> Answer:
    """Inverse of `dataclasses.asdict` for an Answer."""
    confidence = row.get("confidence")
    return Answer(**{**row, "confidence": TokenConfidence(**confidence) if confidence else None})


def verdict_from_dict(row: dict[str, Any]) -> Verdict:
    """Inverse of `dataclasses.asdict` for a Verdict; rows that older versions stored lack the later fields."""
    return Verdict(
        **{
            **row,
            "outcome": Outcome(row["outcome"]),
            "reasons": tuple(row["reasons"]),
            "opinions": tuple([Opinion(**opinion) for opinion in row.get("opinions", ())]),
        }
    )


def trace_to_dict(trace: Trace) -> dict[str, Any]:
    """JSON-ready form of a trace."""
    return {**plain(trace), "query": query_to_dict(trace.query)}


def trace_from_dict(row: dict[str, Any]) -> Trace:
    """Inverse of `trace_to_dict`."""
    cheap, flagship = row["cheap"], row["flagship"]
    return Trace(
        **{
            **row,
            "query": query_from_dict(row["query"]),
            "cheap": answer_from_dict(cheap) if cheap else None,
            "verdict": verdict_from_dict(row["verdict"]),
            "flagship": answer_from_dict(flagship) if flagship else None,
        }
    )
