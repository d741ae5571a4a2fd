"""Is the cheap answer good enough to serve? Rules first (free), then calibrated token confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cascade.calibration import Calibration, CalibrationConfig, CalibrationExample, fit_calibration
from cascade.confidence import confidence_features, confidence_score
from cascade.errors import InputError
from cascade.grade import grade
from cascade.trace import Answer, Outcome, Query, Verdict
from cascade.verifiers.rules import RulesConfig, rule_reasons


@dataclass(frozen=True, slots=True)
class Verifier:
    """Rules and a calibrated confidence threshold."""

    rules: RulesConfig
    calibration: Calibration

    def judge(self, query: Query, answer: Answer) -> Verdict:
        """ACCEPT when the rules pass and the score reaches the threshold; UNPARSED without a score."""
        reasons = rule_reasons(query, answer, self.rules)
        if reasons:
            return Verdict(Outcome.REJECT, None, reasons)
        score = confidence_score(answer, self.calibration.signal)
        if score is None:
            return Verdict(Outcome.UNPARSED, None, (f"no {self.calibration.signal} in the answer",))
        p_wrong = self.calibration.p_wrong_at(score)
        if self.calibration.threshold is None:
            return Verdict(Outcome.REJECT, p_wrong, ("no threshold meets the quality target",))
        if score < self.calibration.threshold:
            return Verdict(Outcome.REJECT, p_wrong, (f"low confidence: {self.calibration.signal}",))
        return Verdict(Outcome.ACCEPT, p_wrong, ())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"rules": self.rules.model_dump(mode="json"), "calibration": self.calibration.to_dict()}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Verifier:
        """Inverse of `to_dict`. Raises InputError for a row that is not one."""
        try:
            return cls(RulesConfig.model_validate(row["rules"]), Calibration.from_dict(row["calibration"]))
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
) -> Verifier:
    """Calibrate a verifier on cheap `answers` graded against `references` (flagship's or known right ones).

    The three sequences run in parallel. An answer is right when its grade reaches `correct_at`.
    """
    examples = [
        CalibrationExample(
            features=confidence_features(answer),
            passes_rules=not rule_reasons(query, answer, rules),
            correct=grade(answer.text, reference, grade_kind) >= correct_at,
        )
        for query, answer, reference in zip(queries, answers, references, strict=True)
    ]
    return Verifier(rules, fit_calibration(examples, config))
