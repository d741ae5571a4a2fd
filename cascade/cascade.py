"""The cascade itself: cheap answers first, the flagship for what the verifier does not accept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tqdm import tqdm

from cascade.calibration import CalibrationConfig
from cascade.confidence import missing_logprobs
from cascade.cost import PriceTable
from cascade.errors import BudgetExceeded, ConfigError, InputError, TierError
from cascade.grade import reference_text
from cascade.purchase import Buyer
from cascade.store import TraceSink
from cascade.tiers import Failure, Flagship, Tier
from cascade.trace import Answer, Outcome, Query, Trace, Verdict
from cascade.verifiers import (
    ChainConfig,
    RulesConfig,
    Scorer,
    ScorerAccount,
    Trainable,
    Verifier,
    fit_verifier,
    scorer_accounts,
)
from cascade.verifiers.accounts import add_known

NO_VERIFIER = Verdict(Outcome.UNPARSED, None, ("no verifier yet",))


@dataclass(frozen=True, slots=True)
class ServeReport:
    """What one call of `Cascade.serve` did."""

    n: int
    """Queries served and traced by this call."""
    n_escalated: int
    """Queries answered by the flagship, the routed ones among them."""
    n_routed: int
    """Queries that the router sent there without a cheap attempt."""
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
    accounts: tuple[ScorerAccount, ...] = ()
    """What each part of the verifier judged and charged."""

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
        self, queries: Sequence[Query], store: TraceSink, chunk: int = 256, *, progress: bool = True
    ) -> ServeReport:
        """Serve `queries` and store their traces chunk by chunk; queries with a trace already are skipped.

        A query whose flagship request failed gets no trace and is counted. Raises TierError when all failed,
        and passes BudgetExceeded on after storing the traces of the queries that were answered.
        """
        known = store.known([query.id for query in queries])
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
        verdicts, cheap = self._try(queries)
        asked = [
            query
            for query, verdict in zip(queries, verdicts, strict=True)
            if not verdict.accepted or self.is_audited(query.id)
        ]
        outcomes, stop = self._ask_flagship(asked)
        failed = [outcome.reason for outcome in outcomes.values() if isinstance(outcome, Failure)]
        asked_ids = {query.id for query in asked}
        traces = []
        for query, verdict in zip(queries, verdicts, strict=True):
            outcome = outcomes.get(query.id)
            if query.id not in asked_ids or isinstance(outcome, Answer):
                flagship = outcome if isinstance(outcome, Answer) else None
                traces.append(self._trace(query, cheap.get(query.id), verdict, flagship))
        return traces, failed, stop

    def _try(self, queries: Sequence[Query]) -> tuple[list[Verdict], dict[str, Answer]]:
        """Verdicts in order, and the cheap answers by query id; none where the query was routed."""
        verdicts = [None] * len(queries) if self.verifier is None else self.verifier.route(queries)
        tried = [query for query, verdict in zip(queries, verdicts, strict=True) if verdict is None]
        answers = self.cheap.answer(tried, progress=False) if tried else []
        judged = iter([NO_VERIFIER] * len(tried) if self.verifier is None else self.verifier.judge(tried, answers))
        given = {query.id: answer for query, answer in zip(tried, answers, strict=True)}
        return [next(judged) if verdict is None else verdict for verdict in verdicts], given

    def _ask_flagship(self, queries: Sequence[Query]) -> tuple[dict[str, Answer | Failure], BudgetExceeded | None]:
        outcomes: dict[str, Answer | Failure] = {}
        try:
            for query, outcome in self.flagship.iter_outcomes(queries):
                outcomes[query.id] = outcome
        except BudgetExceeded as error:
            return outcomes, error
        return outcomes, None

    def _trace(self, query: Query, cheap: Answer | None, verdict: Verdict, flagship: Answer | None) -> Trace:
        # The verifier saw the answer whatever it said, so every query pays for it.
        tried_usd = 0.0 if cheap is None else add_known((self.prices.cost_usd(cheap, query.time), verdict.cost_usd))
        flagship_usd = 0.0 if flagship is None else self.prices.cost_usd(flagship, query.time)
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
            cost_usd=add_known((tried_usd, flagship_usd)) if escalated else tried_usd,
            audit_cost_usd=0.0 if escalated else flagship_usd,
        )


def rejudge(traces: Sequence[Trace], verifier: Verifier, escalation_usd: float | None) -> list[Trace]:
    """The traces as another verifier would have judged their cheap answers, in order.

    A verifier that has gone lenient (traffic drifts, its threshold does not) hides escalations; judged by one fitted
    to recent traffic they show. What was escalated stays so. `escalation_usd` is the serving cost that a newly
    escalated query is taken to have; it keeps the flagship's answer only if it was audited.
    """
    open_ones = {i: trace.cheap for i, trace in enumerate(traces) if not trace.escalated and trace.cheap is not None}
    verdicts = verifier.judge([traces[i].query for i in open_ones], list(open_ones.values()))
    judged = list(traces)
    for i, verdict in zip(open_ones, verdicts, strict=True):
        if not verdict.accepted:
            judged[i] = replace(traces[i], verdict=verdict, escalated=True, audited=False, cost_usd=escalation_usd)
    return judged


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
    scorers: Sequence[Scorer | Trainable] = (),
    chain: ChainConfig | None = None,
    progress: bool = True,
) -> Verifier:
    """A first verifier: `queries` go to both tiers, a cheap answer is right when it agrees with the flagship's, or
    with the reference that the query carries (`reference_kind`).

    Queries whose flagship request failed are left out. Raises BudgetExceeded or TierError as `Buyer.buy` does, and
    InputError, before anything is bought, where token confidence is to judge and the cheap tier sends none.
    """
    answered = dict(zip((query.id for query in queries), cheap.answer(queries, progress=progress), strict=True))
    signal = "mean_logprob" if config.signal == "auto" else config.signal
    problem = None if scorers else missing_logprobs(list(answered.values()), signal)
    if problem is not None:
        raise InputError(problem)
    bought = buyer.buy(queries, purpose, progress=progress).answers
    kept = [query for query in queries if query.id in bought]
    references = [reference_text(query, bought[query.id], reference_kind) for query in kept]
    answers = [answered[query.id] for query in kept]
    return fit_verifier(kept, answers, references, rules, config, grade_kind=grade_kind, scorers=scorers, chain=chain)


def _report(traces: list[Trace], failures: list[str], n_skipped: int) -> ServeReport:
    return ServeReport(
        n=len(traces),
        n_escalated=sum(trace.escalated for trace in traces),
        n_routed=sum(trace.routed for trace in traces),
        n_audited=sum(trace.audited for trace in traces),
        n_failed=len(failures),
        n_skipped=n_skipped,
        cost_usd=add_known(trace.cost_usd for trace in traces),
        audit_cost_usd=add_known(trace.audit_cost_usd for trace in traces),
        failure=failures[0] if failures else None,
        accounts=scorer_accounts(trace.verdict for trace in traces),
    )
