"""What a version was measured to do when it was promoted: everything later is compared with it.

Two sources: the held-out slice of the run that promoted it, or, for a version that no run measured, its own first days
in service. It belongs to a model (base and adapter), not to a verifier: a verifier put in later by hand is compared
with what the same model did before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from cascade.cost import PriceTable
from cascade.errors import InputError
from cascade.grade import grade, reference_text
from cascade.trace import Answer, Outcome, Query, Trace, answer_from_dict, query_from_dict, query_to_dict
from monitoring.tally import by_lot


@dataclass(frozen=True, slots=True)
class FixedRow:
    """One row of the fixed evaluation set: a question, its cheap answer, and what the verifier said of it then."""

    query: Query
    answer: Answer
    right: bool | None
    """None for an accepted answer that nobody checked."""
    accepted: bool
    weight: float = 1.0
    """Rows of traffic that it stands for among those whose rightness is known: an audited answer for all that could
    have been audited."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Measured once, kept for good."""

    model: str
    """Digest of the adapter, or "base"."""
    version: str
    source: str
    """Where it was measured, in words."""
    until: datetime
    """End of what it was measured on; the watch begins here."""
    n: int
    n_escalated: int
    prices: Mapping[str, tuple[float, float]]
    """USD per million tokens in and out at that time, by model."""
    texts: Mapping[str, str]
    """Queries of that time by id, a sample."""
    rows: tuple[FixedRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        rows = [{**asdict(row), "query": query_to_dict(row.query)} for row in self.rows]
        head = {name: getattr(self, name) for name in ("model", "version", "source", "n", "n_escalated")}
        prices = {model: list(price) for model, price in self.prices.items()}
        return {**head, "until": self.until.isoformat(), "prices": prices, "texts": dict(self.texts), "rows": rows}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Reference:
        """Inverse of `to_dict`. Raises InputError for a row that is not one."""
        try:
            rows = tuple(
                FixedRow(**{**r, "query": query_from_dict(r["query"]), "answer": answer_from_dict(r["answer"])})
                for r in row["rows"]
            )
            prices = {model: (float(a), float(b)) for model, (a, b) in row["prices"].items()}
            until = datetime.fromisoformat(row["until"])
            return cls(**{**row, "until": until, "prices": prices, "rows": rows})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not a reference of the monitor: {error}; delete the file to measure it again") from error

    def without(self, ids: set[str]) -> Reference:
        """The same without some queries' texts; the counts stay."""
        kept = {name: getattr(self, name) for name in self.__slots__}
        kept["texts"] = {key: text for key, text in self.texts.items() if key not in ids}
        kept["rows"] = tuple(row for row in self.rows if row.query.id not in ids)
        return Reference(**kept)


def rows_of_traces(traces: Sequence[Trace], grade_kind: str, reference_kind: str, most: int) -> list[FixedRow]:
    """At most `most` traces that have a cheap answer, half of them accepted ones, the audited first."""
    judged = [trace for trace in traces if trace.cheap is not None and trace.verdict.outcome is not Outcome.ROUTED]
    order = {key: place for place, key in enumerate(by_lot(trace.query.id for trace in judged))}
    judged.sort(key=lambda trace: (trace.flagship is None, order[trace.query.id]))
    rejected = [trace for trace in judged if trace.escalated][: most // 2]
    accepted = [trace for trace in judged if not trace.escalated][: most - len(rejected)]
    return [_row(trace, grade_kind, reference_kind) for trace in rejected + accepted]


def _row(trace: Trace, grade_kind: str, reference_kind: str) -> FixedRow:
    assert trace.cheap is not None
    known = trace.flagship is not None and (trace.escalated or trace.audit_propensity > 0)
    right = None
    if known and trace.flagship is not None:
        right = grade(trace.cheap.text, reference_text(trace.query, trace.flagship, reference_kind), grade_kind) >= 1.0
    weight = 1 / trace.audit_propensity if known and not trace.escalated else 1.0
    return FixedRow(trace.query, trace.cheap, right, trace.verdict.accepted, weight)


def prices_at(prices: PriceTable, at: datetime) -> dict[str, tuple[float, float]]:
    """Price of each model that has one at a time."""
    found = {}
    for model, entries in prices.prices.items():
        day = at.date()
        if len(entries) == 1 and entries[0].date is None:
            found[model] = (entries[0].input_per_million, entries[0].output_per_million)
            continue
        past = [entry for entry in entries if entry.date is None or entry.date <= day]
        if past:
            found[model] = (past[-1].input_per_million, past[-1].output_per_million)
    return found
