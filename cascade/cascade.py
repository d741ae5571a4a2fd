"""The cascade itself: cheap answers first, the flagship for what the verifier does not accept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tqdm import tqdm

from cascade.calibration import CalibrationConfig
from cascade.cost import PriceTable
from cascade.errors import BudgetExceeded, ConfigError, TierError
from cascade.grade import reference_text
from cascade.purchase import Buyer
from cascade.store import TraceStore
from cascade.tiers import Failure, Flagship, Tier
from cascade.trace import Answer, Outcome, Query, Trace, Verdict
from cascade.verifiers import RulesConfig, Verifier, fit_verifier

NO_VERIFIER = Verdict(Outcome.UNPARSED, None, ("no verifier yet",))


@dataclass(frozen=True, slots=True)
class ServeReport:
    """What one call of `Cascade.serve` did."""

    n: int
    """Queries served and traced by this call."""
    n_escalated: int
    n_audited: int
    n_failed: int
    """Queries without a trace because the flagship failed; serving the same traffic again retries them."""
    n_skipped: int
    """Queries that already had a trace."""
    cost_usd: float | None
    """Serving cost, without audits; None when any of it is unknown."""
    audit_cost_usd: float | None
    failure: str | None
    """Reason of the first failure."""

    @property
    def escalation_rate(self) -> float | None:
        """Share of served queries that went to the flagship."""
        return self.n_escalated / self.n if self.n else None


@dataclass(frozen=True, slots=True)
class Cascade:
    """A cheap tier, its verifier, and a flagship (an endpoint, or a `Buyer` that asks each question once).

    Without a verifier every query escalates. `audit_rate` is the probability (0..1) with which an accepted
    answer is also sent to the flagship; whether it is depends on `seed` and the query's id alone.
    """

    cheap: Tier
    verifier: Verifier | None
    flagship: Flagship
    prices: PriceTable
    version: str
    audit_rate: float = 0.02
    seed: int = 0
    follow: Callable[[], Cascade] | None = None
    """The cascade to serve the next chunk with, where a promotion may come meanwhile; None: always this one."""

    def __post_init__(self) -> None:
        if not 0 <= self.audit_rate <= 1:
            raise ConfigError(f"audit_rate is {self.audit_rate}; use a probability from 0 to 1")

    def serve(
        self, queries: Sequence[Query], store: TraceStore, chunk: int = 256, *, progress: bool = True
    ) -> ServeReport:
        """Serve `queries` and store their traces chunk by chunk; queries with a trace already are skipped.

        A query whose flagship request failed gets no trace and is counted. Raises TierError when all failed,
        and passes BudgetExceeded on after storing the traces of the queries that were answered.
        """
        known = store.ids()
        todo = list({query.id: query for query in queries if query.id not in known}.values())
        traces: list[Trace] = []
        failures: list[str] = []
        with tqdm(total=len(todo), desc=f"serve {self.version}", unit="query", disable=not progress) as bar:
            for start in range(0, len(todo), chunk):
                part = todo[start : start + chunk]
                served, failed, stop = self._serve_current(part)
                store.add(served)
                traces += served
                failures += failed
                bar.update(len(part))
                if stop is not None:
                    raise stop
        if failures and not traces:
            raise TierError(f"no query was served, all {len(failures)} failed: {failures[0]}")
        return _report(traces, failures, len(queries) - len(todo))

    def is_audited(self, query_id: str) -> bool:
        """Whether this query's answer is audited, should it be accepted."""
        digest = hashlib.sha256(f"{self.seed}:{query_id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.audit_rate * 2**64

    def _serve_current(self, queries: Sequence[Query]) -> tuple[list[Trace], list[str], BudgetExceeded | None]:
        """Serve a chunk with the cascade of the moment; model, verifier and version change together."""
        if self.follow is None:
            return self._serve_chunk(queries)
        current = self.follow()
        try:
            return current._serve_chunk(queries)
        except TierError:
            newer = self.follow()
            if newer.version == current.version:
                raise
            return newer._serve_chunk(queries)  # the model went away because another one took its place

    def _serve_chunk(self, queries: Sequence[Query]) -> tuple[list[Trace], list[str], BudgetExceeded | None]:
        cheap = self.cheap.answer(queries, progress=False)
        verdicts = [self._judge(query, answer) for query, answer in zip(queries, cheap, strict=True)]
        asked = [
            query
            for query, verdict in zip(queries, verdicts, strict=True)
            if not verdict.accepted or self.is_audited(query.id)
        ]
        outcomes, stop = self._ask_flagship(asked)
        failed = [outcome.reason for outcome in outcomes.values() if isinstance(outcome, Failure)]
        asked_ids = {query.id for query in asked}
        traces = []
        for query, answer, verdict in zip(queries, cheap, verdicts, strict=True):
            outcome = outcomes.get(query.id)
            if query.id not in asked_ids or isinstance(outcome, Answer):
                traces.append(self._trace(query, answer, verdict, outcome if isinstance(outcome, Answer) else None))
        return traces, failed, stop

    def _judge(self, query: Query, answer: Answer) -> Verdict:
        return NO_VERIFIER if self.verifier is None else self.verifier.judge(query, answer)

    def _ask_flagship(self, queries: Sequence[Query]) -> tuple[dict[str, Answer | Failure], BudgetExceeded | None]:
        outcomes: dict[str, Answer | Failure] = {}
        try:
            for query, outcome in self.flagship.iter_outcomes(queries):
                outcomes[query.id] = outcome
        except BudgetExceeded as error:
            return outcomes, error
        return outcomes, None

    def _trace(self, query: Query, cheap: Answer, verdict: Verdict, flagship: Answer | None) -> Trace:
        cheap_usd = self.prices.cost_usd(cheap)
        flagship_usd = 0.0 if flagship is None else self.prices.cost_usd(flagship)
        escalated = not verdict.accepted
        return Trace(
            query=query,
            cheap=cheap,
            cheap_version=self.version,
            verdict=verdict,
            escalated=escalated,
            audited=not escalated and flagship is not None,
            audit_propensity=self.audit_rate,
            flagship=flagship,
            # Rules and token confidence judge for free, so the verifier adds nothing here.
            cost_usd=_add(cheap_usd, flagship_usd) if escalated else cheap_usd,
            audit_cost_usd=0.0 if escalated else flagship_usd,
        )


def rejudge(trace: Trace, verifier: Verifier, escalation_usd: float | None) -> Trace:
    """The trace as another verifier would have judged its cheap answer.

    A verifier that has gone lenient (traffic drifts, its threshold does not) hides escalations; judged by one fitted
    to recent traffic they show. What was escalated stays so. `escalation_usd` is the serving cost that a newly
    escalated query is taken to have; it keeps the flagship's answer only if it was audited.
    """
    verdict = verifier.judge(trace.query, trace.cheap)
    if trace.escalated or verdict.accepted:
        return trace
    return replace(trace, verdict=verdict, escalated=True, audited=False, cost_usd=escalation_usd)


def cold_start(
    queries: Sequence[Query],
    cheap: Tier,
    buyer: Buyer,
    config: CalibrationConfig,
    rules: RulesConfig,
    *,
    grade_kind: str = "json_exact",
    reference_kind: str = "flagship",
    purpose: str = "calibration",
    progress: bool = True,
) -> Verifier:
    """A first verifier: `queries` go to both tiers, a cheap answer is right when it agrees with the flagship's, or
    with the reference that the query carries (`reference_kind`).

    Queries whose flagship request failed are left out. Raises BudgetExceeded or TierError as `Buyer.buy` does.
    """
    bought = buyer.buy(queries, purpose, progress=progress).answers
    kept = [query for query in queries if query.id in bought]
    references = [reference_text(query, bought[query.id], reference_kind) for query in kept]
    return fit_verifier(kept, cheap.answer(kept, progress=progress), references, rules, config, grade_kind=grade_kind)


def _add(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def _total(costs: list[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _report(traces: list[Trace], failures: list[str], n_skipped: int) -> ServeReport:
    return ServeReport(
        n=len(traces),
        n_escalated=sum(trace.escalated for trace in traces),
        n_audited=sum(trace.audited for trace in traces),
        n_failed=len(failures),
        n_skipped=n_skipped,
        cost_usd=_total([trace.cost_usd for trace in traces]),
        audit_cost_usd=_total([trace.audit_cost_usd for trace in traces]),
        failure=failures[0] if failures else None,
    )
