"""A candidate on a small share of live traffic, compared as the answers come, and taken back by itself.

Watching a fixed-n test until it says what one hopes for is wrong far more often than its level. The comparison here may
be looked at after every query: it is a bet against "the candidate is not worse by more than the margin", and under
that hypothesis the bettor's capital exceeds 1 / alpha at any time with probability at most alpha (Ville 1939;
Waudby-Smith and Ramdas 2024, JRSS B 86:1, "Estimating means of bounded random variables by betting"; the mixture over
fixed bets is their section 4's hedged capital with a grid in place of an adaptive bet). No model of the outcomes is
assumed, only that queries are sent to the candidate at random.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from cascade.errors import InputError

_BETS = np.linspace(0.02, 0.98, 25)
"""Shares of the largest safe bet; capital is spread evenly over them."""


class Arm(StrEnum):
    """Which version answers a query."""

    CHAMPION = "champion"
    CANDIDATE = "candidate"


class Standing(StrEnum):
    """What the comparison says so far."""

    OPEN = "open"
    WORSE = "worse"
    """Worse than the champion by more than nothing: shown."""
    NOT_WORSE = "not worse"
    """Not worse by the margin: shown."""


def arm_of(query_id: str, share: float, seed: int = 0) -> Arm:
    """The arm of a query: drawn once, by its id, so that asking again gives the same arm."""
    digest = hashlib.sha256(f"canary:{seed}:{query_id}".encode()).digest()
    return Arm.CANDIDATE if int.from_bytes(digest[:8], "big") < share * 2**64 else Arm.CHAMPION


@dataclass(slots=True)
class Bet:
    """Capital of a bet against "the mean of values in [0, 1] is at least `mean`": it grows where values are lower."""

    mean: float
    log_capital: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(_BETS)))
    peak: float = 0.0
    """Largest natural log of the capital so far; its inverse bounds the p-value at any time."""

    def __post_init__(self) -> None:
        if not 0 < self.mean < 1:
            raise InputError(f"a bet on a mean of {self.mean:g} cannot be won or lost: use a mean inside (0, 1)")

    def observe(self, value: float) -> None:
        """Settle the bets on one value. The largest bet that cannot ruin the bettor is 1 / (1 - mean)."""
        stake = _BETS / (1 - self.mean)
        self.log_capital += np.log1p(stake * (self.mean - value))
        top = float(self.log_capital.max())
        self.peak = max(self.peak, top + float(np.log(np.mean(np.exp(self.log_capital - top)))))


@dataclass(slots=True)
class Watch:
    """One outcome in [0, 1] (higher is better), candidate against champion, at any moment.

    Each of the candidate's outcomes is paired with the mean of the champion's since the one before: with a share of a
    twentieth that is nineteen answers, which leaves the candidate's own spread as nearly all of the difference's. The
    pairs follow the traffic, so a drift that moves both sides moves neither the bet.
    """

    alpha: float
    margin: float
    """The candidate may be worse by less than this."""
    harm: Bet = field(init=False)
    safe: Bet = field(init=False)
    n: int = 0
    total: float = 0.0
    _champion: list[float] = field(default_factory=list)
    _waiting: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        # (1 + difference) / 2 lies in [0, 1]. Harm: against a mean of at least 1/2. Safe: against the other side's.
        self.harm = Bet(0.5)
        self.safe = Bet((1 + self.margin) / 2)

    def observe(self, arm: Arm, value: float) -> None:
        """Take one outcome in, in the order of the traffic."""
        if not 0 <= value <= 1:
            raise InputError(f"an outcome of {value:g} is not in [0, 1]: scale it")
        if arm is Arm.CHAMPION:
            self._champion.append(value)
        else:
            self._waiting.append(value)
        if self._champion and self._waiting:
            candidate = sum(self._waiting) / len(self._waiting)
            difference = candidate - sum(self._champion) / len(self._champion)
            self._champion.clear()
            self._waiting.clear()
            self.n, self.total = self.n + 1, self.total + difference
            self.harm.observe((1 + difference) / 2)
            self.safe.observe((1 - difference) / 2)

    @property
    def standing(self) -> Standing:
        """What is shown so far; each side at level alpha."""
        bar = float(np.log(1 / self.alpha))
        if self.harm.peak >= bar:
            return Standing.WORSE
        return Standing.NOT_WORSE if self.safe.peak >= bar else Standing.OPEN

    @property
    def difference(self) -> float | None:
        """Mean difference over the pairs so far; None before the first."""
        return self.total / self.n if self.n else None


@dataclass(slots=True)
class CanaryWatch:
    """Every outcome that is watched on a candidate; any that is shown worse takes it back.

    alpha is shared out among the outcomes, so that a candidate which is worse in none is taken back with probability
    at most alpha, however long it is watched.
    """

    outcomes: tuple[str, ...]
    """Such as "answered cheaply" (1 when the cheap answer was accepted) and "audited right"."""
    alpha: float = 0.05
    margin: float = 0.05
    watches: dict[str, Watch] = field(init=False)

    def __post_init__(self) -> None:
        level = self.alpha / len(self.outcomes)
        self.watches = {name: Watch(level, self.margin) for name in self.outcomes}

    def observe(self, arm: Arm, **values: float) -> None:
        """One query's outcomes; those that are not known are left out."""
        for name, value in values.items():
            self.watches[name].observe(arm, value)

    @property
    def standing(self) -> Standing:
        """WORSE when any outcome is; NOT_WORSE when every one is shown not to be."""
        found = {watch.standing for watch in self.watches.values()}
        if Standing.WORSE in found:
            return Standing.WORSE
        return Standing.NOT_WORSE if found == {Standing.NOT_WORSE} else Standing.OPEN

    def sentence(self) -> str:
        """What was seen, in words."""
        parts = []
        for name, watch in self.watches.items():
            shown = (
                "no pair yet" if watch.difference is None else f"{100 * watch.difference:+.1f} points, n = {watch.n}"
            )
            parts.append(f"{name.replace('_', ' ')} {shown}: {watch.standing}")
        return "; ".join(parts)
