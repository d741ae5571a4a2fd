"""Is the cheap answer good enough to serve? Rules first (free), then scores, cheapest first."""

from cascade.verifiers.rules import RulesConfig, rule_reasons
from cascade.verifiers.score import Score, Scorer
from cascade.verifiers.verifier import Verifier, fit_verifier

__all__ = ["RulesConfig", "Score", "Scorer", "Verifier", "fit_verifier", "rule_reasons"]
