"""Is the cheap answer good enough to serve? Rules first (free), then scores, cheapest first."""

from cascade.verifiers.accounts import ScorerAccount, scorer_accounts
from cascade.verifiers.chain import ChainConfig, Link
from cascade.verifiers.rules import RulesConfig, rule_reasons
from cascade.verifiers.score import Score, Scorer, ScorerLoader, Trainable
from cascade.verifiers.token_confidence import TokenConfidenceScorer
from cascade.verifiers.verifier import Verifier, fit_verifier

__all__ = [
    "ChainConfig",
    "Link",
    "RulesConfig",
    "Score",
    "Scorer",
    "ScorerAccount",
    "ScorerLoader",
    "TokenConfidenceScorer",
    "Trainable",
    "Verifier",
    "fit_verifier",
    "rule_reasons",
    "scorer_accounts",
]
