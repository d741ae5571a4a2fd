"""What calibration takes, how it is set, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cascade.calibration.groups import GroupShifts
from cascade.confidence import Signal
from cascade.errors import InputError


class CalibrationConfig(BaseModel):
    """What the accepted answers must keep to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_error_accepted: float = Field(default=0.05, gt=0, lt=1)
    """Highest tolerated share of wrong answers among the accepted."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    signal: Literal["auto"] | Signal = "auto"
    """Score to judge by; "auto" takes the one that ranks best (AUROC) on the learning part of the data."""
    selection_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of the data that learns (signal, group shifts, where to start testing); the rest tests. None means as
    little as pays: 0.15 with a given signal, 0.3 with "auto", 0.4 with `by_group`."""
    max_quality_loss: float | None = Field(default=None, ge=0, lt=1)
    """How much less of what a candidate serves may be right than of what the champion serves, on the graded answers:
    its threshold is made stricter than the promise asks until it keeps to that. None leaves it at the promise."""
    by_group: bool = False
    """Shift the score by the example's group (its cluster) where the learning part shows that groups of equal score
    differ in how often they are wrong; each group then has a threshold of its own."""
    cross_fit: bool = True
    """A classifier that is all there is to judge by learns from all graded answers, one model per fold, and the
    threshold is tested on scores by models that have not seen the answer; false: a part teaches it, and the rest, which
    it has not seen, tests. With the same answers the first ranks better and proves more; its promise is backed by
    measurement (docs/calibration.md), that of the second by an exact test."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class CalibrationExample:
    """One graded answer."""

    features: Mapping[str, float]
    """Scores by signal, higher = surer (`confidence_features`)."""
    passes_rules: bool
    correct: bool
    group: str | None = None
    """What the query belongs to (its cluster), known before it is judged; None where it belongs to nothing."""
    flagship_correct: bool = True
    """Whether the flagship's answer, which is served when this one is not, is right."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted verifier threshold with what is known of it."""

    signal: str
    scores: tuple[float, ...]
    """Ascending knots of the isotonic fit."""
    p_wrong: tuple[float, ...]
    """P(wrong) at each knot, falling."""
    threshold: float | None
    """Answers that score at least this are accepted; None accepts nothing. With `groups` it holds for the adjusted
    score, which is the plain score for an answer without a known group."""
    why: str
    """How the threshold came about, in one sentence."""
    n: int
    """Examples used in all."""
    n_tested: int
    """Of these, examples in the part that tested the threshold; the next two are counts among them."""
    n_accepted: int
    n_wrong_accepted: int
    error_bound: float | None
    """Upper confidence bound of the error among accepted; None when nothing is accepted."""
    max_error_accepted: float
    confidence: float
    auroc: float | None
    """How well the score tells right from wrong, on the testing part; None where only one kind is there."""
    ece: float | None
    """Expected calibration error of P(wrong), 15 bins of equal mass, each answer's P(wrong) from a fit on four fifths
    of the examples that it was not part of; None with fewer than ten scored answers."""
    served_right: float | None = None
    """Share of right answers that the cascade serves on all examples, the flagship's included."""
    groups: GroupShifts = field(default_factory=GroupShifts)
    """How each group's scores are shifted; empty where the data show no difference or groups are off."""

    @property
    def acceptance_rate(self) -> float | None:
        """Share of the testing part that is accepted."""
        return self.n_accepted / self.n_tested if self.n_tested else None

    def accepts(self, score: float, group: str | None = None) -> bool:
        """Whether an answer of this score, to a query of this group, is served."""
        return self.threshold is not None and self.groups.adjusted(score, group) >= self.threshold

    def threshold_for(self, group: str | None = None) -> float | None:
        """The plain score from which a group's answers are accepted; None where none is, infinity where no score
        of the learning part would do."""
        return None if self.threshold is None else self.groups.plain(self.threshold, group)

    def p_wrong_at(self, score: float, group: str | None = None) -> float | None:
        """Calibrated P(wrong) of a score, linear between knots; None where nothing could be fitted."""
        if not self.scores:
            return None
        return float(np.interp(self.groups.adjusted(score, group), self.scores, self.p_wrong))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        row = asdict(self)
        return row | {"scores": list(self.scores), "p_wrong": list(self.p_wrong), "groups": self.groups.to_dict()}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Calibration:
        """Inverse of `to_dict`; a row without groups has none. Raises InputError for a row that is not one."""
        try:
            groups = GroupShifts.from_dict(row.get("groups", {}))
            tuples = {"scores": tuple(row["scores"]), "p_wrong": tuple(row["p_wrong"])}
            return cls(**{**row, **tuples, "groups": groups})
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"not a calibration record: {error}; fit the verifier again") from error
