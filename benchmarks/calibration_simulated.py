"""Power and validity of the threshold search where the true risk of every threshold is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import binom, norm

Array = NDArray[np.float64]
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Scenario:
    """Scores are standard normal; `p_wrong` gives the chance that an answer of a score is wrong."""

    name: str
    n: int
    target: float
    p_wrong: Callable[[Array], Array]


def _logistic(slope: float, offset: float) -> Callable[[Array], Array]:
    return lambda s: expit(-slope * s - offset)


SCENARIOS = (
    Scenario("well separated", 700, 0.04, _logistic(5, 2.5)),
    Scenario("well separated, few", 300, 0.05, _logistic(5, 2.5)),
    Scenario("well separated, many", 1500, 0.04, _logistic(5, 2.5)),
    Scenario("less separated", 700, 0.04, _logistic(3, 2)),
    Scenario("1.5 % wrong however sure", 700, 0.04, lambda s: 0.015 + 0.985 * expit(-6 * s - 3)),
    Scenario("adversarial: risk just above the target everywhere", 700, 0.05, lambda s: np.full(s.shape, 0.0505)),
    Scenario("adversarial: sure answers right, then a cliff", 700, 0.05, lambda s: np.where(s > 0, 0.02, 0.9)),
    Scenario(
        "adversarial: the surest 5 % over-claim", 700, 0.05, lambda s: np.where(s > 1.645, 0.3, expit(-4 * s - 3))
    ),
    Scenario("adversarial: surer is wronger", 700, 0.05, lambda s: 0.02 + 0.2 * norm.cdf(s) ** 3),
)


def rows(n_simulated: int) -> list[dict[str, Any]]:
    """One row per scenario and procedure."""
    procedures = {"raw counts, a quarter learns": (raw_counts, 0.25), "this": (this, 0.15)}
    return [
        {"scenario": s.name, "n": s.n, "target": f"{s.target:.0%}", "start": name, **simulate(s, *found, n_simulated)}
        for s in SCENARIOS
        for name, found in procedures.items()
    ]


def simulate(
    scenario: Scenario, procedure: Callable[..., float | None], share: float, n_simulated: int
) -> dict[str, str]:
    """Calibrate `n_simulated` times; how often nothing was proven, and how often the promise was broken."""
    from cascade.calibration.threshold import Part

    rng = np.random.default_rng(7)
    scores = np.sort(rng.normal(size=400_000))[::-1]
    risk = np.cumsum(scenario.p_wrong(scores)) / np.arange(1, scores.size + 1)
    cut, nothing, broken, accepted = round(scenario.n * share), 0, 0, 0.0
    for _ in range(n_simulated):
        s = rng.normal(size=scenario.n)
        right = rng.random(scenario.n) >= scenario.p_wrong(s)
        whole = np.ones(scenario.n, dtype=bool)
        learn, test = (Part(s[k], whole[k], right[k]) for k in (slice(cut), slice(cut, None)))
        threshold = procedure(learn, test, scenario.target)
        if threshold is None:
            nothing += 1
            continue
        place = int(np.searchsorted(-scores, -threshold, side="right")) - 1
        broken += bool(risk[place] > scenario.target)
        accepted += (place + 1) / scores.size
    return {
        "nothing proven": f"{nothing / n_simulated:.1%}",
        "promise broken": f"{broken / n_simulated:.2%}",
        "accepted": f"{accepted / n_simulated:.3f}",
        "best possible": f"{np.flatnonzero(risk <= scenario.target).max(initial=-1) / scores.size:.3f}",
    }


def this(learn: Any, test: Any, target: float) -> float | None:
    """The product's own search."""
    from cascade.calibration import CalibrationConfig
    from cascade.calibration.threshold import find_threshold

    return find_threshold(learn, test, CalibrationConfig(max_error_accepted=target, confidence=CONFIDENCE)).threshold


def raw_counts(learn: Any, test: Any, target: float) -> float | None:
    """For comparison: one fixed sequence that starts where the raw counts of the learning part look best."""
    scores = np.sort(learn.scores)[::-1]
    grid = list(dict.fromkeys(scores[np.ceil(np.arange(1, 51) / 50 * scores.size).astype(int) - 1].tolist()))
    ratio = len(test.scores) / len(learn.scores)
    n, wrong = np.array([learn.accepted(threshold) for threshold in grid]).T
    expected = np.ceil((wrong + 2) / (n + 1 / target) * n * ratio)
    evidence = binom.cdf(expected, (n * ratio).astype(int), target)
    start = int(np.flatnonzero(evidence <= evidence.min() * (1 + 1e-9)).max())
    n, wrong = np.array([test.accepted(threshold) for threshold in grid[start:]]).T
    passes = (n > 0) & (binom.cdf(wrong, n, target) <= 1 - CONFIDENCE)
    n_passed = int(np.argmin(np.append(passes, False)))
    return grid[start + n_passed - 1] if n_passed else None
