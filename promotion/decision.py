"""The gate's verdict as records: outcome, checks, numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cascade.errors import InputError


class GateOutcome(StrEnum):
    """What happens to the candidate."""

    PROMOTE = "promote"
    REJECT = "reject"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> int:
        """Exit status of the command line: 0, 3 (rejected), 4 (needs more data)."""
        return {"promote": 0, "reject": 3, "inconclusive": 4}[self.value]


AWAITS_APPROVAL = 5
"""Exit status of a run that passed the gate and waits for a person's word."""
DIFFERS = 6
"""Exit status of `verify` when what a run stored is not what its rows give."""


class Status(StrEnum):
    """PASS: proven. FAIL: the opposite is proven. UNSURE: the data do not tell."""

    PASS = "pass"
    FAIL = "fail"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Check:
    """One requirement, what was found, and the numbers behind it."""

    name: str
    status: Status
    sentence: str
    numbers: dict[str, float]
    n_needed: int | None = None
    """Held-out rows with which an UNSURE check would likely settle; None when more rows of the same
    kind would not, or nothing is open."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome with all its reasons."""

    outcome: GateOutcome
    checks: tuple[Check, ...]
    n_needed: int | None
    """Held-out rows for a clear answer (80 % power if things are as observed); None unless INCONCLUSIVE
    and within reach of more rows."""
    alpha: float | None = None
    """One-sided level that this decision spent."""

    @property
    def exit_code(self) -> int:
        return self.outcome.exit_code

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Decision:
        """Inverse of `to_dict`; InputError when it is not one."""
        try:
            return TypeAdapter(cls).validate_python(dict(row))
        except ValidationError as error:
            raise InputError(f"not a gate decision: {error.errors()[0]['msg']}; run the gate again") from error
