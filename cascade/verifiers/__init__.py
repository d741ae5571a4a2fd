"""Is the cheap answer good enough to serve? Rules first (free), then scores, cheapest first."""

from cascade.verifiers.accounts import ScorerAccount, scorer_accounts
from cascade.verifiers.bank import AnswerBank, Embed
from cascade.verifiers.chain import ChainConfig, Link
from cascade.verifiers.groups import QueryGroups, read_groups
from cascade.verifiers.learned import LearnedConfig, LearnedScorer, LearnedTrainer
from cascade.verifiers.learned_files import HeldBank, forget_entries, held_banks, read_learned
from cascade.verifiers.parts import standing, store_part
from cascade.verifiers.rules import RulesConfig, rule_reasons
from cascade.verifiers.score import Score, Scorer, ScorerLoader, TooLittleData, Trainable
from cascade.verifiers.token_confidence import TokenConfidenceScorer
from cascade.verifiers.verifier import Verifier, fit_verifier

__all__ = [
    "AnswerBank",
    "ChainConfig",
    "Embed",
    "HeldBank",
    "LearnedConfig",
    "LearnedScorer",
    "LearnedTrainer",
    "Link",
    "QueryGroups",
    "RulesConfig",
    "Score",
    "Scorer",
    "ScorerAccount",
    "ScorerLoader",
    "TokenConfidenceScorer",
    "TooLittleData",
    "Trainable",
    "Verifier",
    "fit_verifier",
    "forget_entries",
    "held_banks",
    "read_groups",
    "read_learned",
    "rule_reasons",
    "scorer_accounts",
    "standing",
    "store_part",
]
