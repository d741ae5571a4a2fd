"""A person's word on a candidate that passed the gate, where the policy asks for one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cascade.errors import InputError
from promotion.decision import Decision, GateOutcome
from promotion.policy import GatePolicy


class Word(StrEnum):
    """What the person said."""

    APPROVE = "approve"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Approval:
    """Who said what of one run's decision, when and why."""

    run_id: str
    word: Word
    who: str
    when: str
    """ISO 8601, UTC."""
    why: str
    decision: str
    """Digest of the decision that the word is about: a decision made anew needs a new word."""

    def __post_init__(self) -> None:
        if not self.who.strip() or not self.why.strip():
            raise InputError("a word on a candidate needs who and why: say them with --why")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Approval:
        """Inverse of `to_dict`; InputError when it is not one."""
        try:
            return TypeAdapter(cls).validate_python(dict(row))
        except ValidationError as error:
            raise InputError(f"not an approval: {error.errors()[0]['msg']}; approve or reject the run again") from error


def needs_word(decision: Decision, policy: GatePolicy) -> bool:
    """Whether a person must speak before this candidate may serve."""
    return policy.approval == "required" and decision.outcome is GateOutcome.PROMOTE
