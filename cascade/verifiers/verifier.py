"""Is the cheap answer good enough to serve? Rules first (free), then scorers, cheapest first, then one threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from cascade.verifiers.rules import RulesConfig, rule_reasons
from cascade.verifiers.score import Scorer, ScorerLoader, TooLittleData, Trainable
from cascade.verifiers.token_confidence import TokenConfidenceScorer

if TYPE_CHECKING:
    from cascade.router import Router, RouterTrainer

CHAIN = "chain"
"""Name of the calibrated signal where it is a chain's score, not an answer's own."""
LEARNING_SHARE = 0.4
"""Of the graded answers, where a chain has to learn from them and the configuration does not say."""


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
        scores = score_chain(self.chain, [queries[i] for i in passing], [answers[i] for i in passing])
        verdicts = [Verdict(Outcome.REJECT, None, found) for found in reasons]
        for i, score in zip(passing, scores, strict=True):
            verdicts[i] = self._verdict(score)
        return verdicts

    def _verdict(self, score: ChainScore) -> Verdict:
        outcome, p_wrong, reasons = self._decide(score)
        return Verdict(
            outcome,
            p_wrong,
            reasons,
            score=score.opinions[-1].value,
            cost_usd=add_known(opinion.cost_usd for opinion in score.opinions),
            latency_s=add_known(opinion.latency_s for opinion in score.opinions),
            opinions=score.opinions,
        )

    def _decide(self, score: ChainScore) -> tuple[Outcome, float | None, tuple[str, ...]]:
        remarks = () if score.reason is None else (score.reason,)
        if score.value is None:
            early = score.opinions[-1].value is not None
            return (Outcome.REJECT if early else Outcome.UNPARSED), score.p_wrong, remarks
        p_wrong = self.calibration.p_wrong_at(score.value)
        if self.calibration.threshold is None:
            return Outcome.REJECT, p_wrong, ("no threshold meets the quality target",)
        if score.value < self.calibration.threshold:
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
        }

    @classmethod
    def from_dict(cls, row: dict[str, Any], load: ScorerLoader = load_free_scorer) -> Verifier:
        """Inverse of `to_dict`; `load` builds its scorers. Raises InputError for a row that is not one."""
        try:
            links = tuple(Link.from_dict(link, load) for link in row.get("links", ()))
            rules, calibration = RulesConfig.model_validate(row["rules"]), Calibration.from_dict(row["calibration"])
            router = _load_router(row["router"], load) if row.get("router") else None
            return cls(rules, calibration, links, dict(row.get("left_out", {})), router)
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
) -> Verifier:
    """Calibrate a verifier on cheap `answers` graded against `references` (flagship's or known right ones).

    The three sequences run in parallel. An answer is right when its grade reaches `correct_at`. Without `scorers`
    (cheapest first), or where none of them can judge, the calibration takes a token confidence. What a scorer has to
    learn, and the chain's early bounds, come from the calibration's learning part; its testing part is seen by
    nothing but the threshold's test.
    """
    correct = np.array(
        [
            grade(answer.text, reference, grade_kind) >= correct_at
            for answer, reference in zip(answers, references, strict=True)
        ],
        dtype=bool,
    )
    passes = np.array([not rule_reasons(q, a, rules) for q, a in zip(queries, answers, strict=True)], dtype=bool)
    graded = Graded(queries, answers, references, correct, passes)
    if router is not None and not scorers:
        scorers = [TokenConfidenceScorer("mean_logprob" if config.signal == "auto" else config.signal)]
    fitted = FittedChain((), np.array([]), {}, 0.0)
    learn, _ = (
        split_parts(len(queries), config, LEARNING_SHARE) if len(queries) >= 2 else (np.array([], np.int64), None)
    )
    if scorers and len(learn):
        fitted = fit_chain(scorers, graded, learn, config.max_error_accepted, chain or ChainConfig())
    if not fitted.links:
        features = [confidence_features(answer) for answer in answers]
        return Verifier(rules, fit_calibration(_examples(features, passes, correct), config), left_out=fitted.left_out)
    fitted_router, left_out = _fit_router(router, graded, fitted, learn, config.max_error_accepted)
    if fitted_router is not None:
        # What is routed is never tried, so never accepted: the threshold is tested on what is left.
        passes &= np.array([chance is None for chance in fitted_router.routed(queries)])
    # The chain's parts are the calibration's: the split depends on number, share and config alone.
    features = [{} if np.isnan(value) else {CHAIN: value} for value in fitted.values.tolist()]
    calibration = fit_calibration(_examples(features, passes, correct), config, signal=CHAIN, share=LEARNING_SHARE)
    return Verifier(rules, calibration, fitted.links, left_out, fitted_router)


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


def _examples(
    features: Sequence[dict[str, float]], passes: np.ndarray, correct: np.ndarray
) -> list[CalibrationExample]:
    rows = zip(features, passes.tolist(), correct.tolist(), strict=True)
    return [CalibrationExample(f, passes_rules=p, correct=c) for f, p, c in rows]
