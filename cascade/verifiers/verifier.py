"""Is the cheap answer good enough to serve? Rules first (free), then scorers, cheapest first, then one threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade.calibration import Calibration, CalibrationConfig, CalibrationExample, fit_calibration, split_parts
from cascade.confidence import confidence_features
from cascade.errors import InputError
from cascade.grade import grade
from cascade.trace import Answer, Outcome, Query, Verdict
from cascade.verifiers.accounts import add_known
from cascade.verifiers.chain import ChainConfig, ChainScore, FittedChain, Graded, Link, fit_chain, score_chain
from cascade.verifiers.groups import QueryGroups
from cascade.verifiers.rules import RulesConfig, rule_reasons
from cascade.verifiers.score import Scorer, ScorerLoader, TooLittleData, Trainable
from cascade.verifiers.token_confidence import TokenConfidenceScorer

if TYPE_CHECKING:
    from cascade.router import Router, RouterTrainer

CHAIN = "chain"
"""Name of the calibrated signal where it is a chain's score, not an answer's own."""
LEARNING_SHARE = 0.4
"""Of the graded answers, where a chain has to learn from a part of them and the configuration does not say."""
STARTING_SHARE = 0.15
"""Of the graded answers, where all teach the classifier: says at which threshold testing starts."""


def load_free_scorer(row: dict[str, Any]) -> Scorer:
    """Builds the scorers that need nothing but the answer. Raises InputError for another kind."""
    if row.get("kind") != "token_confidence":
        raise InputError(
            f"the verifier holds a scorer of kind {row.get('kind')!r}, which needs its files or an endpoint:"
            " open it with the run's configuration"
        )
    return TokenConfidenceScorer(str(row["signal"]))


@dataclass(frozen=True, slots=True)
class Verifier:
    """Rules, a chain of scorers, and a calibrated threshold on the chain's score."""

    rules: RulesConfig
    calibration: Calibration
    links: tuple[Link, ...] = ()
    """Scorers, cheapest first; without any, the token confidence that the calibration names."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Scorers that could judge none of the answers it was fitted on, with the reason; a router that would not pay."""
    router: Router | None = None
    """Says which queries are not worth a cheap attempt; the calibration holds for what it leaves."""
    groups: QueryGroups | None = None
    """Which part of the traffic a query belongs to, where the calibration shifts scores by it."""

    @property
    def chain(self) -> tuple[Link, ...]:
        """The scorers with their early bounds."""
        return self.links or (Link(TokenConfidenceScorer(self.calibration.signal)),)

    def route(self, queries: Sequence[Query]) -> list[Verdict | None]:
        """A verdict ROUTED for each query that is to go straight to the flagship, None for those worth an attempt."""
        if self.router is None:
            return [None] * len(queries)
        return [
            None if chance is None else Verdict(Outcome.ROUTED, None, (f"routed: {chance:.3f} chance of acceptance",))
            for chance in self.router.routed(queries)
        ]

    def judge(self, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Verdict]:
        """Verdicts in order: ACCEPT when the rules pass and the score reaches the threshold; without one UNPARSED."""
        reasons = [rule_reasons(q, a, self.rules) for q, a in zip(queries, answers, strict=True)]
        passing = [i for i, found in enumerate(reasons) if not found]
        tried = [queries[i] for i in passing]
        scores = score_chain(self.chain, tried, [answers[i] for i in passing])
        groups = [None] * len(tried) if self.groups is None else self.groups.of(tried)
        verdicts = [Verdict(Outcome.REJECT, None, found) for found in reasons]
        for i, score, group in zip(passing, scores, groups, strict=True):
            verdicts[i] = self._verdict(score, group)
        return verdicts

    def _verdict(self, score: ChainScore, group: str | None) -> Verdict:
        outcome, p_wrong, reasons = self._decide(score, group)
        return Verdict(
            outcome,
            p_wrong,
            reasons,
            score=score.opinions[-1].value,
            cost_usd=add_known(opinion.cost_usd for opinion in score.opinions),
            latency_s=add_known(opinion.latency_s for opinion in score.opinions),
            opinions=score.opinions,
        )

    def _decide(self, score: ChainScore, group: str | None) -> tuple[Outcome, float | None, tuple[str, ...]]:
        remarks = () if score.reason is None else (score.reason,)
        if score.value is None:
            early = score.opinions[-1].value is not None
            return (Outcome.REJECT if early else Outcome.UNPARSED), score.p_wrong, remarks
        p_wrong = self.calibration.p_wrong_at(score.value, group)
        if self.calibration.threshold is None:
            return Outcome.REJECT, p_wrong, ("no threshold meets the quality target",)
        if not self.calibration.accepts(score.value, group):
            return Outcome.REJECT, p_wrong, (f"low confidence: {score.opinions[-1].scorer}", *remarks)
        return Outcome.ACCEPT, p_wrong, ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "rules": self.rules.model_dump(mode="json"),
            "calibration": self.calibration.to_dict(),
            "links": [link.to_dict() for link in self.links],
            "left_out": dict(self.left_out),
            "router": None if self.router is None else self.router.to_dict(),
            "groups": None if self.groups is None else self.groups.to_dict(),
        }

    @classmethod
    def from_dict(
        cls,
        row: dict[str, Any],
        load: ScorerLoader = load_free_scorer,
        load_groups: Callable[[str], QueryGroups] | None = None,
    ) -> Verifier:
        """Inverse of `to_dict`; `load` builds its scorers, `load_groups` its groups from their digest.

        Raises InputError for a row that is not one.
        """
        try:
            links = tuple(Link.from_dict(link, load) for link in row.get("links", ()))
            rules, calibration = RulesConfig.model_validate(row["rules"]), Calibration.from_dict(row["calibration"])
            router = _load_router(row["router"], load) if row.get("router") else None
            groups = _load_groups(row["groups"], load_groups) if row.get("groups") else None
            return cls(rules, calibration, links, dict(row.get("left_out", {})), router, groups)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not a verifier record: {error}; fit the verifier again") from error


def fit_verifier(
    queries: Sequence[Query],
    answers: Sequence[Answer],
    references: Sequence[str],
    rules: RulesConfig,
    config: CalibrationConfig,
    *,
    grade_kind: str = "json_exact",
    correct_at: float = 1.0,
    scorers: Sequence[Scorer | Trainable] = (),
    chain: ChainConfig | None = None,
    router: RouterTrainer | None = None,
    groups: QueryGroups | None = None,
    flagship_correct: Sequence[bool] | None = None,
    floor: float | None = None,
) -> Verifier:
    """Calibrate a verifier on cheap `answers` graded against `references` (flagship's or known right ones).

    The three sequences run in parallel. An answer is right when its grade reaches `correct_at`. Without `scorers`
    (cheapest first), or where none of them can judge, the calibration takes a token confidence. A scorer that has to
    learn and is all there is learns from all (`config.cross_fit`) and is tested by its cross-fitted scores. Otherwise
    what is learnt, early bounds and router included, comes from the calibration's learning part, and its testing part
    is seen by nothing but the threshold's test. `groups` must come from queries outside these; they count with
    `config.by_group`. `flagship_correct` says which of the flagship's answers are right (None: all), `floor` what share
    of all that is served must be at least (`fit_calibration`).
    """
    if groups is None or not config.by_group:
        groups, config = None, config.model_copy(update={"by_group": False})
    correct = np.array(
        [
            grade(answer.text, reference, grade_kind) >= correct_at
            for answer, reference in zip(answers, references, strict=True)
        ],
        dtype=bool,
    )
    passes = np.array([not rule_reasons(q, a, rules) for q, a in zip(queries, answers, strict=True)], dtype=bool)
    belongs = [None] * len(queries) if groups is None else groups.of(queries)
    graded = Graded(queries, answers, references, correct, passes)
    if router is not None and not scorers:
        scorers = [TokenConfidenceScorer("mean_logprob" if config.signal == "auto" else config.signal)]
    fitted = FittedChain((), np.array([]), {}, 0.0)
    # Bounds and routers are picked to suit the answers that they are picked on: those need a part of their own.
    whole = config.cross_fit and len(scorers) == 1 and router is None
    learn = _learning_part(len(queries), config, whole=whole)
    if scorers and len(learn):
        fitted = fit_chain(scorers, graded, learn, config.max_error_accepted, chain or ChainConfig())
    if not fitted.links:
        features = [confidence_features(answer) for answer in answers]
        examples = _examples(features, passes, correct, belongs, flagship_correct)
        calibration = fit_calibration(examples, config, floor=floor)
        return Verifier(rules, calibration, left_out=fitted.left_out, groups=groups)
    fitted_router, left_out = _fit_router(router, graded, fitted, learn, config.max_error_accepted)
    if fitted_router is not None:
        # What is routed is never tried, so never accepted: the threshold is tested on what is left.
        passes &= np.array([chance is None for chance in fitted_router.routed(queries)])
    # Where a part learns, it is the calibration's: the split depends on number, share and config alone.
    features = [{} if np.isnan(value) else {CHAIN: value} for value in fitted.values.tolist()]
    examples = _examples(features, passes, correct, belongs, flagship_correct)
    share = STARTING_SHARE if whole and not config.by_group else LEARNING_SHARE
    calibration = fit_calibration(examples, config, signal=CHAIN, share=share, floor=floor)
    return Verifier(rules, calibration, fitted.links, left_out, fitted_router, groups)


def _learning_part(n: int, config: CalibrationConfig, *, whole: bool) -> np.ndarray:
    """Positions of the graded answers that scorers, bounds and routers may learn from."""
    if n < 2:
        return np.array([], dtype=np.int64)
    return np.arange(n) if whole else split_parts(n, config, LEARNING_SHARE)[0]


def _fit_router(
    trainer: RouterTrainer | None, graded: Graded, fitted: FittedChain, learn: np.ndarray, max_error: float
) -> tuple[Router | None, dict[str, str]]:
    """The router, from the learning part alone, and what was left out, a router that would not pay included."""
    left_out = dict(fitted.left_out)
    if trainer is None:
        return None, left_out
    values, correct = fitted.values[learn], graded.correct[learn]
    order = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")
    n = np.arange(1, len(order) + 1)
    within = np.flatnonzero((np.cumsum(~correct[order]) <= max_error * n) & np.isfinite(values[order]))
    accepted = np.zeros(len(learn), dtype=bool)
    accepted[order[: within[-1] + 1 if len(within) else 0]] = True
    queries, references = [graded.queries[i] for i in learn], [graded.references[i] for i in learn]
    try:
        return trainer.fit(queries, references, accepted, fitted.cost_usd), left_out
    except TooLittleData as error:
        return None, left_out | {"router": str(error)}


def _load_router(row: dict[str, Any], load: ScorerLoader) -> Router:
    from cascade.router import Router  # it is made of parts of this package

    return Router.from_dict(row, load)


def _load_groups(row: dict[str, Any], load: Callable[[str], QueryGroups] | None) -> QueryGroups:
    if load is None:
        raise InputError("the verifier groups queries, which needs its files: open it with the run's configuration")
    return load(str(row["digest"]))


def _examples(
    features: Sequence[dict[str, float]],
    passes: np.ndarray,
    correct: np.ndarray,
    groups: Sequence[str | None],
    flagship_correct: Sequence[bool] | None,
) -> list[CalibrationExample]:
    theirs = [True] * len(features) if flagship_correct is None else flagship_correct
    rows = zip(features, passes.tolist(), correct.tolist(), groups, theirs, strict=True)
    return [CalibrationExample(f, passes_rules=p, correct=c, group=g, flagship_correct=t) for f, p, c, g, t in rows]
