"""A comparison's tables and its sentence: what the terminal, the page and Prefect's artifact show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.intervals import FloatArray, Interval
from flows.arms import ARMS, TARGETED, UNTARGETED
from flows.comparison import CONFIDENCE, ArmResult, Figures, Savings, Taken, by_level
from flows.summary import cut, points


def rows_of(found: Sequence[Figures]) -> list[dict[str, Any]]:
    """The table of figures as served: one row per number of answers and arm."""
    return [
        {
            "answers": f"{f.level:,}",
            "arm": f.arm,
            "cost": cut(f.served.cost),
            "escalations": cut(f.escalations),
            "quality": points(f.quality),
            **_compared(f.served),
        }
        for f in found
    ]


def held_rows(found: Sequence[Figures]) -> list[dict[str, Any]]:
    """The same at equal quality: each arm's threshold moved until it serves just that."""
    names = list(dict.fromkeys(name for f in found for name in f.held))
    return [
        {
            "quality held": name,
            "answers": f"{f.level:,}",
            "arm": f.arm,
            "cost": cut(f.held[name].cost),
            **_compared(f.held[name]),
        }
        for name in names
        for f in found
    ]


def _compared(found: Savings) -> dict[str, str]:
    return {
        "more than untargeted": points(found.over_untargeted) if found.over_untargeted else "-",
        "targeted saves more": points(found.targeted_over) if found.targeted_over else "-",
        "times untargeted": times(found.times_untargeted),
    }


def price_rows(taken: Sequence[Taken]) -> list[dict[str, Any]]:
    """What each arm takes: flagship answers, training, and queries until the saving has paid for both."""
    rows = []
    for level, arms in sorted(by_level(taken).items()):
        for arm, own in arms.items():
            rows.append(
                {
                    "answers": f"{level:,}",
                    "arm": arm,
                    "used": _mean_text([t.answers for t in own], ",.0f"),
                    "flagship USD": _mean_text([t.answers_usd for t in own], ".4f"),
                    "training tokens": _mean_text([t.train_tokens for t in own], ",.0f"),
                    "training s": _mean_text([t.train_seconds for t in own], ",.0f"),
                    "training USD": _mean_text([t.train_usd for t in own], ".4f"),
                    "queries until paid back": _payback(own),
                }
            )
    return rows


def times(found: Interval | None) -> str:
    """A ratio of savings with its interval; an end that no resample bounds is open."""
    if found is None:
        return "-"
    high = "open" if found.high == float("inf") else f"{found.high:.1f}"
    return f"{found.value:.1f} [{found.low:.1f}, {high}]"


def headline(found: Sequence[Figures]) -> str:
    """The result in one sentence, at the largest number of answers that both arms have."""
    pairs = {(f.level, f.arm): f for f in found}
    levels = [level for level, arm in pairs if arm == UNTARGETED.name and (level, TARGETED.name) in pairs]
    if not levels:
        return "No untargeted arm was run: nothing to compare with."
    ours, other = pairs[max(levels), TARGETED.name], pairs[max(levels), UNTARGETED.name]
    held = "; ".join(
        f"at {name} quality {cut(savings.cost)} and {cut(other.held[name].cost)}{_tail(savings.times_untargeted)}"
        for name, savings in ours.held.items()
    )
    seeds = f" and {ours.seeds} seeds" if ours.seeds > 1 else ", one seed"
    served = _tail(ours.served.times_untargeted)
    return (
        f"With {max(levels):,} flagship answers, targeted distillation changes the cascade's cost by"
        f" {cut(ours.served.cost)} and untargeted by {cut(other.served.cost)}{served}, at a quality difference of"
        f" {points(ours.quality)} and {points(other.quality)} ({CONFIDENCE:.0%} intervals over queries{seeds}); {held}."
    )


def _tail(ratio: Interval | None) -> str:
    return f", {times(ratio)} times as much" if ratio else " (not told apart from zero)"


def what_arms_are(results: Sequence[ArmResult]) -> list[dict[str, str]]:
    """Name and meaning of each arm that was run."""
    return [{"arm": name, "what": ARMS[name].what} for name in dict.fromkeys(r.arm for r in results)]


def _payback(own: Sequence[Taken]) -> str:
    """Mean over seeds of what answers and training cost, by the mean saving per query."""
    spent = [None if t.answers_usd is None or t.train_usd is None else t.answers_usd + t.train_usd for t in own]
    saved = [t.saved_usd for t in own]
    if any(x is None for x in (*spent, *saved)):
        return "unknown"
    per_query = float(np.mean([x for x in saved if x is not None]))
    return "never" if per_query <= 0 else f"{np.mean([x for x in spent if x is not None]) / per_query:,.0f}"


def _mean_text(values: Sequence[float | None], form: str) -> str:
    known: FloatArray = np.array([value for value in values if value is not None], np.float64)
    return format(float(known.mean()), form) if len(known) == len(values) else "unknown"
