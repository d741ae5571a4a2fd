"""Groups (clusters) whose answers are wrong more often than their score says, and by how much to shift the score.

A student that over-claims does so in single clusters; one threshold for all cannot see it. The model is

    logit P(wrong) = a + u_group + (b + v_group) x,      u_group, v_group ~ Normal(0, spread^2)

with x the normal score of the answer's rank among the learning part's scores: u says that a group is harder than its
scores tell, v that its scores tell less (over-claiming: sure and wrong alike). The spread is chosen by
cross-validated log-loss, zero included, so that groups are left alone where they do not help. A group's x then
becomes ((b + v) x + u) / b: the adjusted score is the plain score of an average answer that is wrong as often.
Everything here is learnt on the learning part alone, so the threshold's test stays what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cascade.calibration.smooth import FloatArray, fit_logistic, normal_ranks

SPREADS = (0.5, 1.0, 2.0, 3.0)
KNOTS = 101
FOLDS = 5


@dataclass(frozen=True, slots=True)
class GroupShifts:
    """How far each group's scores are moved; without knots nothing is moved."""

    knots: tuple[float, ...] = ()
    """Ascending scores of the learning part."""
    positions: tuple[float, ...] = ()
    """x at each knot, ascending."""
    shifts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """(offset, slope) along x by group: x becomes offset + slope x, slope >= 0. An offset below 0 means answers that
    are wrong more often than their score says, a slope below 1 a score that says less."""

    def adjusted(self, score: float, group: str | None) -> float:
        """The score of an average answer that is wrong as often; `score` itself for an unknown group."""
        move = self.shifts.get(group) if group is not None else None
        if move is None:
            return score
        x = move[0] + move[1] * float(np.interp(score, self.knots, self.positions))
        return float(np.interp(x, self.positions, self.knots))

    def plain(self, adjusted: float, group: str | None) -> float:
        """The lowest plain score that reaches an adjusted one; infinity where none does."""
        move = self.shifts.get(group) if group is not None else None
        if move is None:
            return adjusted
        if self.adjusted(self.knots[-1], group) < adjusted:
            return float("inf")
        if self.adjusted(self.knots[0], group) >= adjusted:
            return float("-inf")
        x = (float(np.interp(adjusted, self.knots, self.positions)) - move[0]) / move[1]
        return float(np.interp(x, self.positions, self.knots))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "knots": list(self.knots),
            "positions": list(self.positions),
            "shifts": {name: list(move) for name, move in self.shifts.items()},
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> GroupShifts:
        """Inverse of `to_dict`; an empty row shifts nothing."""
        shifts = {name: (float(move[0]), float(move[1])) for name, move in row.get("shifts", {}).items()}
        return cls(tuple(row.get("knots", ())), tuple(row.get("positions", ())), shifts)


def fit_shifts(
    scores: FloatArray, wrong: NDArray[np.bool_], groups: Sequence[str | None], seed: int = 0
) -> GroupShifts:
    """Shifts learnt from n answers: `scores` (n,), `wrong` (n,), one group each; none where they do not help."""
    names = sorted({group for group in groups if group is not None})
    if len(names) < 2 or wrong.all() or not wrong.any() or np.ptp(scores) == 0:
        return GroupShifts()
    x = normal_ranks(scores)
    place = {name: at for at, name in enumerate(names)}
    member = np.zeros((len(groups), len(names)))
    for row, group in enumerate(groups):
        if group is not None:
            member[row, place[group]] = 1.0
    columns = np.column_stack([np.ones(len(x)), x, member, member * x[:, None]])
    spread = _best_spread(columns, wrong, seed)
    if spread == 0:
        return GroupShifts()
    b = fit_logistic(columns, wrong, _ridge(columns, spread))
    if b[1] > -0.2:  # a score that says nothing cannot carry a shift
        return GroupShifts()
    knots, positions = _thin(scores, x)
    offsets, slopes = b[2 : 2 + len(names)] / b[1], 1 + b[2 + len(names) :] / b[1]
    shifts = {name: (float(offsets[at]), max(0.0, float(slopes[at]))) for name, at in place.items()}
    return GroupShifts(knots, positions, shifts)


def _ridge(columns: FloatArray, spread: float) -> FloatArray:
    penalty = np.full(columns.shape[1], 1e12 if spread == 0 else 1.0 / spread**2)
    penalty[:2] = 1e-3, 2e-2
    return penalty


def _best_spread(columns: FloatArray, wrong: NDArray[np.bool_], seed: int) -> float:
    fold = np.random.default_rng(seed).permutation(len(wrong)) % FOLDS
    losses = {spread: _held_out_loss(columns, wrong, fold, spread) for spread in (0.0, *SPREADS)}
    return min(losses, key=lambda spread: losses[spread])


def _held_out_loss(columns: FloatArray, wrong: NDArray[np.bool_], fold: NDArray[np.int64], spread: float) -> float:
    total = 0.0
    for held in range(FOLDS):
        inside = fold != held
        b = fit_logistic(columns[inside], wrong[inside], _ridge(columns, spread))
        p = np.clip(expit(columns[~inside] @ b), 1e-6, 1 - 1e-6)
        total -= float(np.log(np.where(wrong[~inside], p, 1 - p)).sum())
    return total


def _thin(scores: FloatArray, x: FloatArray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """At most KNOTS points of the map from score to x, ends included."""
    knots, first = np.unique(scores, return_index=True)
    keep = np.unique(np.linspace(0, len(knots) - 1, KNOTS).round().astype(int))
    return tuple(knots[keep].tolist()), tuple(x[first][keep].tolist())
