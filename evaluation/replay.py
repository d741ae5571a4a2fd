"""Champion and candidate side by side: the same held-out queries, judged, graded and priced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

from cascade.errors import InputError
from cascade.grade import grade, reference_text
from cascade.trace import Answer, Outcome, Query, Verdict, answer_from_dict
from cascade.verifiers.accounts import add_known

Answers = Mapping[str, Answer] | Sequence[Answer]


class Judge(Protocol):
    """What a verifier must offer here; cascade.verifiers.Verifier is one."""

    def judge(self, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Verdict]:
        """Accept or reject cheap answers, in order."""
        ...


class Pricing(Protocol):
    """What a price table must offer here; cascade.cost.PriceTable is one."""

    def cost_usd(self, answer: Answer, at: datetime | None = None) -> float | None:
        """Cost of one answer at the price in force at a time, None when its usage is unknown."""
        ...


@dataclass(frozen=True, slots=True)
class Side:
    """How one cascade (cheap tier + its verifier + the flagship) handled one query."""

    answer: Answer
    """The cheap tier's answer."""
    passes_rules: bool
    """False where the verifier rejected without weighing a probability: a rule's rejection."""
    score: float | None
    """The verifier's probability that the cheap answer is right; None where it gave none."""
    accepted: bool
    correct_cheap: float
    """Grade of the cheap answer, 0..1."""
    served_correct: float
    """Grade of what the user got: the cheap answer if accepted, else the flagship's."""
    cost_usd: float | None
    """Cheap answer and verifier, plus the flagship's where it escalated; None when any of it is unknown."""
    verifier_cost_usd: float | None = 0.0
    """What the verifier charged for its verdict; part of `cost_usd`."""
    routed: bool = False
    """The router spared the cheap attempt: `answer` is what it would have been, and costs nothing."""


@dataclass(frozen=True, slots=True)
class PairedRow:
    """One held-out query, answered by champion, candidate and flagship."""

    query_id: str
    text: str
    cluster: int | None
    """Cluster of the query among the escalations; None or -1 belongs to none."""
    reference: str
    champion: Side
    candidate: Side
    flagship: Answer
    flagship_cost_usd: float | None


def pair_sides(
    heldout: Sequence[Query],
    champion_answers: Answers,
    candidate_answers: Answers,
    flagship_answers: Answers,
    *,
    champion_verifier: Judge | None,
    candidate_verifier: Judge | None,
    prices: Pricing,
    reference_kind: str,
    grade_kind: str,
    clusters: Mapping[str, int] | None = None,
) -> list[PairedRow]:
    """Join three models' answers to the same queries into one row per query, in the queries' order.

    Answers are either in the queries' order or keyed by query id. A verifier of None accepts nothing
    (a cascade that is not calibrated yet). The right answer is the flagship's ("flagship") or the one
    that the traffic carries ("reference"). Raises InputError when a query is twice there, or an answer
    or a reference is missing: a row that only one side has would bend the comparison.
    """
    ids = [query.id for query in heldout]
    if not ids or len(set(ids)) < len(ids):
        raise InputError(f"{len(ids)} held-out queries with {len(set(ids))} distinct ids: give each one once")
    champion = _by_id(champion_answers, ids, "champion")
    candidate = _by_id(candidate_answers, ids, "candidate")
    flagship = _by_id(flagship_answers, ids, "flagship")
    verdicts = {
        "champion": _judge(champion_verifier, heldout, [champion[i] for i in ids]),
        "candidate": _judge(candidate_verifier, heldout, [candidate[i] for i in ids]),
    }
    rows = []
    for place, query in enumerate(heldout):
        best = flagship[query.id]
        reference = reference_text(query, best, reference_kind)
        large_usd = prices.cost_usd(best, query.time)
        case = _Case(query, reference, grade_kind, grade(best.text, reference, grade_kind), large_usd)
        rows.append(
            PairedRow(
                query_id=query.id,
                text=query.text,
                cluster=clusters.get(query.id) if clusters else None,
                reference=reference,
                champion=_side(case, champion[query.id], verdicts["champion"][place], prices),
                candidate=_side(case, candidate[query.id], verdicts["candidate"][place], prices),
                flagship=best,
                flagship_cost_usd=case.flagship_cost_usd,
            )
        )
    return rows


def paired_row_to_dict(row: PairedRow) -> dict[str, Any]:
    """JSON-ready form of a row."""
    return asdict(row)


def paired_row_from_dict(row: dict[str, Any]) -> PairedRow:
    """Inverse of `paired_row_to_dict`."""
    return PairedRow(
        **{
            **row,
            "flagship": answer_from_dict(row["flagship"]),
            "champion": _side_from_dict(row["champion"]),
            "candidate": _side_from_dict(row["candidate"]),
        }
    )


@dataclass(frozen=True, slots=True)
class _Case:
    """What both sides share on one query."""

    query: Query
    reference: str
    grade_kind: str
    flagship_grade: float
    flagship_cost_usd: float | None


def _judge(verifier: Judge | None, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Verdict]:
    if verifier is None:
        return [Verdict(Outcome.UNPARSED, None, ("not calibrated yet",))] * len(queries)
    return verifier.judge(queries, answers)


def _side(case: _Case, answer: Answer, verdict: Verdict, prices: Pricing) -> Side:
    correct = grade(answer.text, case.reference, case.grade_kind)
    routed = verdict.outcome is Outcome.ROUTED
    parts = [] if routed else [prices.cost_usd(answer, case.query.time), verdict.cost_usd]
    if not verdict.accepted:
        parts.append(case.flagship_cost_usd)
    return Side(
        answer=answer,
        passes_rules=verdict.outcome is not Outcome.REJECT or verdict.p_wrong is not None,
        score=None if verdict.p_wrong is None else 1.0 - verdict.p_wrong,
        accepted=verdict.accepted,
        correct_cheap=correct,
        served_correct=correct if verdict.accepted else case.flagship_grade,
        cost_usd=add_known(parts),
        verifier_cost_usd=verdict.cost_usd,
        routed=routed,
    )


def _side_from_dict(row: dict[str, Any]) -> Side:
    return Side(**{**row, "answer": answer_from_dict(row["answer"])})


def _by_id(answers: Answers, ids: Sequence[str], who: str) -> Mapping[str, Answer]:
    if not isinstance(answers, Mapping):
        if len(answers) != len(ids):
            raise InputError(f"{who} gave {len(answers)} answers to {len(ids)} held-out queries: answer every one")
        return dict(zip(ids, answers, strict=True))
    missing = [i for i in ids if i not in answers]
    if missing:
        raise InputError(
            f"{who} has no answer to {len(missing)} of {len(ids)} held-out queries (first: {missing[0]}): "
            "answer them, or leave them out for every side"
        )
    return answers
