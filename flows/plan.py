"""What an improvement run would buy, and how long it would take, before anything is spent.

Requests are counted, not guessed, wherever the stores decide them: an answer that serving or an earlier run has paid
for is not bought again. What a run finds out only on its way (which escalations it selects, how many clusters there
are) is given as a range. Prices are the configured table's; token counts are those of the window's own traces.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cascade.cost import PriceTable
from cascade.purchase import worst_case_tokens_in
from cascade.request import OpenAITierConfig, request_digest
from cascade.trace import Query, Trace
from cascade.verifiers.judge import judge_query
from clustering.naming import naming_query
from clustering.rivals import select_random
from evaluation.judge import ServedPair, judge_questions
from flows.config import RunConfig
from flows.context import State, window_of
from flows.records import BASELINE, BUILD, CLUSTER, COLLECT, DECIDE, EVALUATE, PROMOTE, TRAIN
from flows.run_cost import training_usd
from flows.rundir import Manifest, RunDir, read_json
from flows.window import split_window

STAGES = (COLLECT, BASELINE, CLUSTER, BUILD, TRAIN, EVALUATE, DECIDE, PROMOTE)
RECENT_RUNS = 5
SAMPLE = 200  # of queries, to price a judge's questions by
FEWEST_MEMBERS = 10  # of a cluster, where no past run says how many there are
EXEMPLARS = 10  # more than a cluster shows: a bound on the length of a naming request


@dataclass(frozen=True, slots=True)
class Usage:
    """What requests like the window's take: tokens per byte of prompt, tokens of an answer; None where unknown."""

    tokens_per_byte: float | None
    tokens_out: float | None
    n: int
    """Flagship answers of known usage that this rests on."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One thing that money may be spent on."""

    what: str
    asked: int | None
    """Answers that the run wants of it; None where only the run can tell."""
    held: int | None
    """Of these, answers that are stored already."""
    fewest: int
    most: int
    """Requests that would be sent."""
    low_usd: float | None
    high_usd: float | None
    """Expected for `fewest` and for `most`; None where the window has no token counts to go by."""
    at_most_usd: float
    """What the budget would reserve for `most`: longest prompt, longest answer."""
    why: str = ""


@dataclass(frozen=True, slots=True)
class StageTime:
    """What a stage took in past runs of this configuration."""

    stage: str
    seconds: float | None
    """Median; None where no past run is there."""
    runs: int
    longest: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run that starts now would do, pay and take."""

    since: datetime
    until: datetime
    n_pool: int
    n_calibration: int
    n_heldout: int
    usage: Usage
    purchases: tuple[Planned, ...]
    """Of the run itself; all under `budget_usd`."""
    arms: tuple[Planned, ...]
    """What the arms of `compare` would buy beside the targeted one."""
    times: tuple[StageTime, ...]
    training_usd: float | None
    """Own compute at the price table's rate for as long as the last trainings took; not under the budget."""
    budget_usd: float

    @property
    def low_usd(self) -> float | None:
        return _sum(row.low_usd for row in self.purchases)

    @property
    def high_usd(self) -> float | None:
        return _sum(row.high_usd for row in self.purchases)

    @property
    def at_most_usd(self) -> float:
        return sum(row.at_most_usd for row in self.purchases)

    @property
    def seconds(self) -> float | None:
        return _sum(row.seconds for row in self.times)


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def plan_run(config: RunConfig, state: State) -> Plan:
    """Plan a run on the stored traces; asks no model. Raises InputError where a run would find too few traces."""
    since, until = window_of(config, state)
    traces = list(state.traces.between(since, until))
    pool, calibration, heldout = split_window(traces, config.window, since, until, config.seed).values()
    shop = _Shop(config, state, PriceTable.from_yaml(config.prices), usage_of(traces))
    past = _past_runs(config)
    escalated = [trace for trace in pool if trace.escalated]
    n_judged = len(calibration) + len(heldout)
    purchases = [
        shop.exactly("held-out and calibration answers", [*calibration, *heldout]),
        shop.targeted(pool, config.target.n_answers, past),
        shop.names(past, until, [trace.query for trace in escalated]),
        shop.verifier_judge([*calibration, *heldout], 2 * n_judged),
        shop.preference_judge(heldout),
    ]
    times = tuple(_stage_time(stage, past) for stage in STAGES)
    trained = next(time.seconds for time in times if time.stage == TRAIN)
    return Plan(
        since=since,
        until=until,
        n_pool=len(pool),
        n_calibration=len(calibration),
        n_heldout=len(heldout),
        usage=shop.usage,
        purchases=tuple(purchases),
        arms=tuple(
            shop.arm(name, rows, config)
            for name, rows in (("untargeted", pool), ("random-within-escalated", escalated))
        ),
        times=times,
        training_usd=None if trained is None else training_usd(shop.prices, trained),
        budget_usd=config.budget_usd,
    )


def usage_of(traces: Sequence[Trace]) -> Usage:
    """What the window's own requests took of the flagship."""
    answered = [(trace.query, trace.flagship) for trace in traces if trace.flagship is not None]
    known = [(query, answer) for query, answer in answered if answer.tokens_in and answer.tokens_out]
    if not known:
        return Usage(None, None, 0)
    tokens = sum(answer.tokens_in or 0 for _, answer in known)
    return Usage(
        tokens_per_byte=tokens / sum(_prompt_bytes(query) for query, _ in known),
        tokens_out=statistics.fmean(answer.tokens_out or 0 for _, answer in known),
        n=len(known),
    )


def _prompt_bytes(query: Query) -> int:
    return max(1, sum(len(message["content"].encode()) for message in query.messages))


@dataclass(frozen=True)
class _Shop:
    """Counts and prices what the configured models would be asked."""

    config: RunConfig
    state: State
    prices: PriceTable
    usage: Usage

    def exactly(self, what: str, traces: Sequence[Trace], why: str = "") -> Planned:
        """Answers of the flagship to these very queries."""
        missing = self.missing(traces)
        usd, worst = self.expected_usd(missing), self.worst_usd(missing, self.config.flagship)
        n = len(missing)
        return Planned(what, len(traces), len(traces) - n, n, n, usd, usd, worst, why)

    def missing(self, traces: Sequence[Trace]) -> list[Query]:
        """Queries whose answer neither a trace nor the store of bought answers holds; equal requests count once."""
        flagship, found = self.config.flagship, {}
        for trace in traces:
            digest = request_digest(trace.query, flagship)
            if trace.flagship is None and digest not in found and self.state.answers.get(digest) is None:
                found[digest] = trace.query
        return list(found.values())

    def expected_usd(self, queries: Sequence[Query]) -> float | None:
        """What answers of the usual length would cost."""
        if not queries:
            return 0.0
        per_byte, out = self.usage.tokens_per_byte, self.usage.tokens_out
        if per_byte is None or out is None:
            return None
        price = self.prices.price(self.config.flagship.price_name)
        return sum(price.usd(round(per_byte * _prompt_bytes(query)), round(out)) for query in queries)

    def worst_usd(self, queries: Sequence[Query], tier: OpenAITierConfig) -> float:
        """What the budget would reserve."""
        price = self.prices.price(tier.price_name)
        return sum(price.usd(worst_case_tokens_in(query, tier), tier.max_tokens) for query in queries)

    def targeted(self, pool: Sequence[Trace], n_answers: int, past: Sequence[RunDir]) -> Planned:
        """The selection is the run's to make: what escalated as served is answered, what else it picks may not be."""
        missing = self.missing(pool)
        fewest = max(0, min(n_answers, len(pool)) - (len(pool) - len(missing)))
        most = min(n_answers, len(missing))
        dear = sorted(missing, key=_prompt_bytes, reverse=True)[:most]
        usd = self.expected_usd(missing)
        each = None if usd is None else usd / max(1, len(missing))
        bought = [found.counts["flagship_bought"] for found in _manifests(past, BUILD)]
        why = f"{len(pool) - len(missing)} of the pool's {len(pool)} queries have their answer"
        return Planned(
            what="training answers, targeted",
            asked=n_answers,
            held=None,
            fewest=fewest,
            most=most,
            low_usd=None if each is None else each * fewest,
            high_usd=None if each is None else each * most,
            at_most_usd=self.worst_usd(dear, self.config.flagship),
            why=why + (f"; the last run bought {bought[0]}" if bought else ""),
        )

    def arm(self, name: str, traces: Sequence[Trace], config: RunConfig) -> Planned:
        """What an arm that draws at random would buy; its draw is known by the seed."""
        ids = set(select_random([trace.query.id for trace in traces], config.target.n_answers, config.seed))
        return self.exactly(f"training answers, {name}", [trace for trace in traces if trace.query.id in ids])

    def names(self, past: Sequence[RunDir], until: datetime, escalated: Sequence[Query]) -> Planned:
        """One small request per cluster; as many clusters as the last run found."""
        what = "cluster names"
        if not self.config.name_clusters:
            return Planned(what, 0, 0, 0, 0, 0.0, 0.0, 0.0, "not asked for (name_clusters)")
        counts = [found.counts["clusters"] for found in _manifests(past, CLUSTER)]
        n = counts[0] if counts else max(1, len(escalated) // (self.config.cluster.min_cluster_size or FEWEST_MEMBERS))
        longest = sorted((query.text for query in escalated), key=len, reverse=True)[:EXEMPLARS]
        question = naming_query(0, longest, until)
        usd = self.expected_usd([question] * n)
        why = f"{n} clusters, as in the last run" if counts else f"no past run: at most {n} clusters of the least size"
        worst = n * self.worst_usd([question], self.config.flagship)
        return Planned(what, n, None, 0, n, 0.0 if usd is not None else None, usd, worst, why)

    def verifier_judge(self, traces: Sequence[Trace], most: int) -> Planned:
        """Both sides' answers to both parts, unless a cheaper scorer decides before the judge is asked."""
        judge, what = self.config.verifier.judge, "judge of the verifier"
        if judge is None:
            return Planned(what, 0, 0, 0, 0, 0.0, 0.0, 0.0, "no judge configured")
        pairs = [(trace.query, trace.cheap) for trace in traces if trace.cheap is not None]
        asked = [judge_query(query, answer, judge) for query, answer in pairs[:SAMPLE]]
        return self._judged(
            what, judge, asked, most, "champion's and candidate's answers; cheaper scorers may decide first"
        )

    def preference_judge(self, heldout: Sequence[Trace]) -> Planned:
        """Both orders of each held-out pair that differs."""
        judge, what = self.config.preference_judge, "pairwise judge"
        if judge is None:
            return Planned(what, 0, 0, 0, 0, 0.0, 0.0, 0.0, "no judge configured")
        pairs = [ServedPair(trace.query, trace.served_text, trace.served_text) for trace in heldout[:SAMPLE]]
        asked = [question for pair in pairs for question in judge_questions(pair)]
        return self._judged(what, judge, asked, 2 * len(heldout), "both orders of each pair that differs")

    def _judged(self, what: str, judge: OpenAITierConfig, asked: Sequence[Query], most: int, why: str) -> Planned:
        price, per_byte = self.prices.price(judge.price_name), self.usage.tokens_per_byte
        if not asked:
            return Planned(what, most, None, 0, most, None, None, 0.0, f"{why}; no answers to price it by")
        tokens = None if per_byte is None else per_byte * statistics.fmean(map(_prompt_bytes, asked))
        high = None if tokens is None else most * price.usd(round(tokens), judge.max_tokens)
        worst = most * max(price.usd(worst_case_tokens_in(query, judge), judge.max_tokens) for query in asked)
        return Planned(what, most, None, 0, most, None if high is None else 0.0, high, max(worst, high or 0.0), why)


def _past_runs(config: RunConfig) -> list[RunDir]:
    """Runs of the configuration of this name, newest first."""
    found: list[tuple[str, Path]] = []
    for path in config.runs.glob("*/run.json"):
        head: dict[str, Any] = read_json(path)
        if head["config"].get("name") == config.name:
            found.append((head["started"], path.parent))
    return [RunDir(root) for _, root in sorted(found, reverse=True)]


def _manifests(past: Iterable[RunDir], stage: str) -> list[Manifest]:
    return [found for run in past if (found := run.manifest(stage)) is not None]


def _stage_time(stage: str, past: Sequence[RunDir]) -> StageTime:
    seconds = [found.seconds for found in _manifests(past, stage)][:RECENT_RUNS]
    if not seconds:
        return StageTime(stage, None, 0, None)
    return StageTime(stage, statistics.median(seconds), len(seconds), max(seconds))
