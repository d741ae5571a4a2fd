"""Costs at equal quality: what a cascade costs at the threshold at which it serves what another one serves.

A proven threshold leaves slack by the luck of its calibration, so two cascades at the same promise serve somewhat
different quality, and the cheaper one may only have been the luckier. Swept to equal quality they compare by what they
can tell apart. The threshold is found on the held-out rows themselves, in hindsight and for all cascades alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.intervals import FloatArray


@dataclass(frozen=True, slots=True)
class Swept:
    """One cascade on n held-out rows, before a threshold is set; each array has shape (n,)."""

    score: FloatArray
    """P(right) by its verifier; -inf where a rule rejected."""
    cheap: FloatArray
    """Grade of the cheap answer, 0..1."""
    own_usd: FloatArray
    """Cheap answer and verifier."""
    flagship: FloatArray
    """Grade of the flagship's answer, 0..1."""
    flagship_usd: FloatArray


def costs_at_quality(rows: Swept, quality: float) -> FloatArray:
    """(n,) USD of each row at the lowest threshold at which the mean served grade is at least `quality`; all rows
    escalate where no threshold reaches it. Rows of equal score are accepted together."""
    return rows.own_usd + np.where(accepted_at_quality(rows, quality), 0.0, rows.flagship_usd)


def accepted_at_quality(rows: Swept, quality: float) -> NDArray[np.bool_]:
    """(n,) which rows are accepted at that threshold."""
    order = np.argsort(-rows.score, kind="stable")
    score = rows.score[order]
    n = len(order)
    served = (rows.flagship.sum() + np.cumsum(rows.cheap[order] - rows.flagship[order])) / n
    last_of_equals = np.append(score[1:] != score[:-1], True) & np.isfinite(score)
    reached = np.flatnonzero(last_of_equals & (served >= quality - 1e-12))
    accepted = np.zeros(n, bool)
    if len(reached):
        accepted[order[: reached[-1] + 1]] = True
    return accepted
