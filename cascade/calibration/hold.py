"""A threshold strict enough that what the cascade serves stays as good as what it served before.

A promise on the error among accepted leaves room: a student that is right more often earns a looser threshold, and the
cascade may then serve less that is right than the champion's did, whose threshold used up less of the promise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cascade.calibration.threshold import Part


def served_right(part: Part, flagship_right: NDArray[np.bool_], threshold: float | None) -> float:
    """Share of right answers served at a threshold, 0..1: accepted ones as they are, the flagship's for the rest.

    `flagship_right`: (n,) like the part's arrays. None accepts nothing.
    """
    taken = part.acceptable & (part.scores >= (np.inf if threshold is None else threshold))
    return float(np.where(taken, part.correct, flagship_right).mean())


def hold_quality(part: Part, flagship_right: NDArray[np.bool_], loosest: float, floor: float) -> float:
    """The loosest threshold, `loosest` or stricter, at which the share of right answers served is at least `floor`;
    where none reaches it, the one that serves most right ones."""
    usable = np.flatnonzero(part.acceptable & (part.scores >= loosest))
    order = usable[np.argsort(-part.scores[usable], kind="stable")]
    if not order.size:
        return loosest
    scores = part.scores[order]
    gain = np.cumsum(part.correct[order].astype(np.int64) - flagship_right[order])
    served = (flagship_right.sum() + gain) / len(part.scores)
    last_of_equals = np.append(scores[1:] < scores[:-1], True)
    places = np.flatnonzero(last_of_equals)
    reached = places[served[places] >= floor - 1e-12]
    place = reached[-1] if reached.size else places[served[places] >= served[places].max()][-1]
    # All that the proven threshold accepts: that threshold itself, which may lie between two scores.
    return loosest if place == places[-1] else float(scores[place])
