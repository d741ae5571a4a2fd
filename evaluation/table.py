"""Paired rows as columns: what metrics, the gate's simulation and the benchmarks compute with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evaluation.replay import PairedRow, Side

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SideTable:
    """One cascade's columns, each of shape (n,)."""

    accepted: BoolArray
    cheap: FloatArray
    """Grade of the cheap answer, 0..1."""
    served: FloatArray
    """Grade of what the user got."""
    cost: FloatArray
    """USD; NaN where unknown."""
    routed: BoolArray | None = None
    """Escalated without a cheap attempt; None: none was."""
    verifier_cost: FloatArray | None = None
    """USD of the verdict, part of the cost, NaN where unknown; None: verdicts were free."""

    @property
    def known(self) -> BoolArray:
        """Rows whose cost is known."""
        return ~np.isnan(self.cost)

    def take(self, rows: IntArray) -> SideTable:
        """The given rows, in the given order; a row may occur many times."""
        return SideTable(
            self.accepted[rows],
            self.cheap[rows],
            self.served[rows],
            self.cost[rows],
            None if self.routed is None else self.routed[rows],
            None if self.verifier_cost is None else self.verifier_cost[rows],
        )


@dataclass(frozen=True, slots=True)
class PairedTable:
    """Champion and candidate on the same n queries."""

    champion: SideTable
    candidate: SideTable
    flagship_cost: FloatArray
    """USD of asking the flagship, shape (n,); NaN where unknown."""
    cluster: IntArray
    """Cluster of each row, -1 for none."""

    @property
    def n(self) -> int:
        return len(self.cluster)

    def take(self, rows: IntArray) -> PairedTable:
        """The given rows, in the given order; a row may occur many times."""
        return PairedTable(
            self.champion.take(rows), self.candidate.take(rows), self.flagship_cost[rows], self.cluster[rows]
        )

    def with_candidate(self, candidate: SideTable) -> PairedTable:
        """The same queries with another candidate."""
        return replace(self, candidate=candidate)


def table_of(rows: Sequence[PairedRow] | PairedTable) -> PairedTable:
    """Columns of paired rows; a table is returned as it is."""
    if isinstance(rows, PairedTable):
        return rows
    return PairedTable(
        champion=_side_table([row.champion for row in rows]),
        candidate=_side_table([row.candidate for row in rows]),
        flagship_cost=_or_nan([row.flagship_cost_usd for row in rows]),
        cluster=np.array([-1 if row.cluster is None else row.cluster for row in rows], dtype=np.int64),
    )


def _side_table(sides: Sequence[Side]) -> SideTable:
    return SideTable(
        accepted=np.array([side.accepted for side in sides], dtype=bool),
        cheap=np.array([side.correct_cheap for side in sides], dtype=np.float64),
        served=np.array([side.served_correct for side in sides], dtype=np.float64),
        cost=_or_nan([side.cost_usd for side in sides]),
        routed=np.array([side.routed for side in sides], dtype=bool),
        verifier_cost=_or_nan([side.verifier_cost_usd for side in sides]),
    )


def _or_nan(values: Sequence[float | None]) -> FloatArray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
