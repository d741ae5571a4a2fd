"""Policies for a pair of recorded models: each verifier and router ranks the queries, learned only where it may.

A policy's scores for the rows that choose its threshold come from models that have not seen them, and the test rows
are seen by nothing before they are served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade.cost import PriceTable
from cascade.errors import InputError
from cascade.final_answer import final_answer
from cascade.recorded import Recording, Usage, price_usd
from cascade.trace import Answer, Query
from cascade.verifiers import (
    Embed,
    LearnedConfig,
    LearnedTrainer,
    RulesConfig,
    Scorer,
    TokenConfidenceScorer,
    TooLittleData,
    rule_reasons,
)
from cascade.verifiers.arithmetic import ArithmeticScorer, check_calculations
from cascade.verifiers.peers import PeerScorer
from cascade.verifiers.score import Score
from evaluation.frontier import PairOutcomes, Scores
from evaluation.routers import QueryTable

Rows = NDArray[np.intp]
RIGHT_AT = 0.999
"""An answer counts as right, for what learns right from wrong, from this grade on."""
NO_OPINION = -1e6
"""Below every score: what could not be judged, or fails the rules, escalates first."""
RULES = RulesConfig()
LEARNED = LearnedConfig(blocks=("confidence", "query", "form", "text"), dimensions=64)


@dataclass(frozen=True, slots=True)
class RecordedPair:
    """Two models of a record on the queries that both answered."""

    recording: Recording = field(repr=False)
    cheap: str
    flagship: str
    queries: tuple[Query, ...] = field(repr=False)
    answers: tuple[Answer, ...] = field(repr=False)
    """The cheap model's, in the queries' order."""
    outcomes: PairOutcomes = field(repr=False)
    peers: tuple[str, ...] = ()
    has_text: bool = True
    """False where the record kept only labels of the cheap model: nothing can judge its answers."""

    @property
    def usage(self) -> tuple[Usage, ...]:
        """Where the token counts come from."""
        return self.recording.usage([self.cheap, self.flagship, *self.peers])


def load_pair(
    recording: Recording, cheap: str, flagship: str, prices: PriceTable, peers: Sequence[str] = ()
) -> RecordedPair:
    """A pair of models with the outcomes of both.

    Raises InputError for a model that is not recorded, for a label or a cost that is not known, and where no query was
    answered by all of them.
    """
    queries = recording.shared([cheap, flagship, *peers])
    if not queries:
        raise InputError(f"no query of {recording.name} was answered by all of {', '.join([cheap, flagship, *peers])}")
    grades, costs = {}, {}
    for model in (cheap, flagship):
        rows = [recording.answers[model][query.id] for query in queries]
        ungraded = [query.id for query, row in zip(queries, rows, strict=True) if row.grade is None]
        if ungraded:
            raise InputError(
                f"{len(ungraded)} answers of {model} carry no grade (first: query {ungraded[0]!r}): "
                'add "grade" (0..1) or "correct" to their rows'
            )
        usd = [price_usd(row, prices) for row in rows]
        if any(cost is None for cost in usd):
            raise InputError(f"the cost of some answers of {model} is unknown: record tokens_in and tokens_out, or usd")
        grades[model], costs[model] = np.array([row.grade for row in rows], dtype=float), np.array(usd, dtype=float)
    tried = [recording.answers[cheap][query.id] for query in queries]
    return RecordedPair(
        recording,
        cheap,
        flagship,
        tuple(queries),
        tuple(row.answer for row in tried),
        PairOutcomes(grades[cheap], grades[flagship], costs[cheap], costs[flagship]),
        tuple(peers),
        any(row.has_text for row in tried),
    )


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to decide, with its scores of the rows that choose its threshold and of the rows that test it."""

    name: str
    family: str
    """"rules", "single", "learned", "router" or "router per USD"."""
    choose: Scores
    test: Scores
    scorer: Scorer | None = None
    """The fitted scorer, where it is one and can serve."""


def rank(
    pair: RecordedPair,
    prices: PriceTable,
    fit: Rows,
    test: Rows,
    choose: Rows | None = None,
    *,
    embed: Embed | None = None,
    seed: int = 0,
) -> list[Policy]:
    """All policies that the record can feed, in the order rules, single, learned, router.

    Without `choose` the threshold is chosen on `fit` itself, by cross-fitted scores. The routers learn where the
    flagship does better than the cheap model (both were graded on `fit`), a verifier where the cheap answer is right;
    there is none where `fit` holds too few answers of a kind.
    """
    routers = _routers(pair, fit, test, choose, embed, seed)
    if not pair.has_text:
        return routers
    others = fit if choose is None else choose
    policies = [_single(pair, AllRulesScorer(), "rules", others, test)]
    policies += [_single(pair, scorer, "single", others, test) for scorer in single_scorers(pair, prices)]
    for peers in _committees(pair, prices):
        blocks = LEARNED.blocks if peers is None else (*LEARNED.blocks, "peers")
        config = LEARNED.model_copy(update={"blocks": blocks, "seed": seed})
        policies += _learned(pair, LearnedTrainer(config, embed, peers=peers), fit, test, choose)
    return [*policies, *routers]


def single_scorers(pair: RecordedPair, prices: PriceTable) -> list[Scorer]:
    """The verifiers that need no training and that these answers give a score to."""
    scorers: list[Scorer] = [ArithmeticScorer(), BrevityScorer()]
    scorers += [TokenConfidenceScorer(signal) for signal in ("mean_logprob", "min_logprob", "margin")]
    scorers += [peers for peers in _committees(pair, prices) if peers is not None]
    sample = list(range(0, len(pair.queries), max(1, len(pair.queries) // 200)))
    queries, answers = [pair.queries[i] for i in sample], [pair.answers[i] for i in sample]
    return [s for s in scorers if len({score.value for score in s.score(queries, answers)} - {None}) > 1]


def _committees(pair: RecordedPair, prices: PriceTable) -> list[PeerScorer | None]:
    """None (nobody asked), the first peer alone, all peers."""
    sizes = sorted({1, len(pair.peers)}) if pair.peers else []
    return [None, *(PeerScorer({m: pair.recording.tier(m) for m in pair.peers[:size]}, prices) for size in sizes)]


@dataclass(frozen=True, slots=True)
class BrevityScorer:
    """Scores short answers higher: a long solution has more places to go wrong, or has lost its way."""

    @property
    def name(self) -> str:
        return "brevity"

    def score(self, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Score]:
        """Minus the number of characters."""
        return [Score(-float(len(answer.text))) for answer in answers]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"kind": "brevity"}


@dataclass(frozen=True, slots=True)
class AllRulesScorer:
    """Scores 1 where the answer comes to a final answer and states no wrong calculation, else 0."""

    @property
    def name(self) -> str:
        return "rules"

    def score(self, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Score]:
        """1.0 or 0.0 per answer."""
        return [Score(float(_is_sound(answer.text))) for answer in answers]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"kind": "all_rules"}


def _is_sound(text: str) -> bool:
    return final_answer(text) is not None and check_calculations(text).n_wrong == 0


@dataclass(frozen=True, slots=True)
class TieBreaking:
    """A scorer whose equal scores are told apart by a fixed coin of 0..1e-6 per query.

    A score of few values (a rule, a small committee) allows few operating points; the coin makes the points between
    reachable, as random mixing would.
    """

    scorer: Scorer

    @property
    def name(self) -> str:
        return self.scorer.name

    def score(self, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Score]:
        """The scorer's own, with the coin added; no opinion stays none."""
        scored = self.scorer.score(queries, answers)
        return [
            score if score.value is None else replace(score, value=score.value + coin(query.id))
            for query, score in zip(queries, scored, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"kind": "tie_breaking", "scorer": self.scorer.to_dict()}


def coin(query_id: str) -> float:
    """A fixed number of 0..1e-6 per query, by its id alone."""
    return int.from_bytes(hashlib.sha256(query_id.encode()).digest()[:6], "big") / 2**48 * 1e-6


def _single(pair: RecordedPair, scorer: Scorer, family: str, others: Rows, test: Rows) -> Policy:
    fair = TieBreaking(scorer)
    return Policy(scorer.name, family, _scores(pair, fair, others), _scores(pair, fair, test), fair)


def _learned(pair: RecordedPair, trainer: LearnedTrainer, fit: Rows, test: Rows, choose: Rows | None) -> list[Policy]:
    right = pair.outcomes.cheap_grade >= RIGHT_AT
    try:
        scorer, crossfitted = trainer.fit(*_asked(pair, fit), [""] * len(fit), right[fit])
    except TooLittleData:
        return []
    chosen = _as_scores(pair, fit, crossfitted) if choose is None else _scores(pair, scorer, choose)
    return [Policy(scorer.name, "learned", chosen, _scores(pair, scorer, test), scorer)]


def _routers(
    pair: RecordedPair, fit: Rows, test: Rows, choose: Rows | None, embed: Embed | None, seed: int
) -> list[Policy]:
    """By the flagship's expected gain, and by that gain per dollar that the flagship is expected to cost."""
    table = QueryTable.build(pair.queries, fit, test, choose, embed=embed, seed=seed)
    gain = pair.outcomes.flagship_grade - pair.outcomes.cheap_grade
    better, worse, usd = table.chance(gain > 0), table.chance(gain < 0), table.usd(pair.outcomes.flagship_usd)
    gains = (better.choose - worse.choose, better.test - worse.test)
    worths = [np.where(g > 0, g / cost, g) for g, cost in zip(gains, (usd.choose, usd.test), strict=True)]
    return [
        Policy(name, name, Scores(-values[0], before=True), Scores(-values[1], before=True))
        for name, values in (("router", gains), ("router per USD", worths))
    ]


def _asked(pair: RecordedPair, rows: Rows) -> tuple[list[Query], list[Answer]]:
    return [pair.queries[i] for i in rows], [pair.answers[i] for i in rows]


def _scores(pair: RecordedPair, scorer: Scorer, rows: Rows) -> Scores:
    return _as_scores(pair, rows, scorer.score(*_asked(pair, rows)))


def _as_scores(pair: RecordedPair, rows: Rows, scored: Sequence[Score]) -> Scores:
    """As a Verifier uses them: what fails the rules is never kept, and no scorer is paid for it.

    Raises InputError where an opinion has an unknown price.
    """
    usd = np.array([np.nan if score.cost_usd is None else score.cost_usd for score in scored])
    if np.isnan(usd).any():
        raise InputError("the cost of a verifier's opinion is unknown: record tokens_in and tokens_out of its models")
    values = np.array([NO_OPINION if score.value is None else score.value for score in scored])
    passes = np.array([not rule_reasons(q, a, RULES) for q, a in zip(*_asked(pair, rows), strict=True)], dtype=bool)
    coins = np.array([coin(pair.queries[i].id) for i in rows])
    return Scores(np.where(passes & (values > NO_OPINION), values, NO_OPINION + coins), np.where(passes, usd, 0.0))
