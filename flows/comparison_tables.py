"""A comparison's tables and its sentence: what the terminal, the page and Prefect's artifact show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.intervals import FloatArray, Interval
from flows.arms import ARMS, TARGETED, UNTARGETED
from flows.comparison import CONFIDENCE, ArmResult, Figures, by_level
from flows.summary import cut, points


def rows_of(found: Sequence[Figures]) -> list[dict[str, Any]]:
    """The table of figures: one row per number of answers and arm."""
    return [
        {
            "answers": f"{f.level:,}",
            "arm": f.arm,
            "cost": cut(f.cost),
            "escalations": cut(f.escalations),
            "quality": points(f.quality),
            "more than untargeted": points(f.over_untargeted) if f.over_untargeted else "-",
            "targeted saves more": points(f.targeted_over) if f.targeted_over else "-",
            "times untargeted": times(f.times_untargeted),
        }
        for f in found
    ]


def matched_rows(found: Sequence[Figures]) -> list[dict[str, Any]]:
    """The same at equal quality: each arm's threshold moved until it serves what the champion serves."""
    return [
        {
            "answers": f"{f.level:,}",
            "arm": f.arm,
            "cost at the champion's quality": cut(f.matched),
            "more than untargeted": points(f.matched_over) if f.matched_over else "-",
            "targeted saves more": points(f.matched_targeted_over) if f.matched_targeted_over else "-",
            "times untargeted": times(f.matched_times),
        }
        for f in found
    ]


def price_rows(results: Sequence[ArmResult]) -> list[dict[str, Any]]:
    """What each arm takes: flagship answers, training, and queries until the saving has paid for both."""
    rows = []
    for level, arms in sorted(by_level(results).items()):
        for arm, own in arms.items():
            rows.append(
                {
                    "answers": f"{level:,}",
                    "arm": arm,
                    "used": _mean_text([r.answers for r in own], ",.0f"),
                    "flagship USD": _mean_text([r.answers_usd for r in own], ".4f"),
                    "training tokens": _mean_text([r.train_tokens for r in own], ",.0f"),
                    "training s": _mean_text([r.train_seconds for r in own], ",.0f"),
                    "training USD": _mean_text([r.train_usd for r in own], ".4f"),
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
    return (
        f"With {max(levels):,} flagship answers, targeted distillation changes the cascade's cost by {cut(ours.cost)}"
        f" and untargeted by {cut(other.cost)}{_tail(ours.times_untargeted)}, at a quality difference of"
        f" {points(ours.quality)} and {points(other.quality)} ({CONFIDENCE:.0%} intervals over queries"
        f"{f' and {ours.seeds} seeds' if ours.seeds > 1 else ', one seed'}). At the champion's quality it is"
        f" {cut(ours.matched)} and {cut(other.matched)}{_tail(ours.matched_times)}."
    )


def _tail(ratio: Interval | None) -> str:
    return f", {times(ratio)} times as much" if ratio else "; the latter is not told apart from zero"


def what_arms_are(results: Sequence[ArmResult]) -> list[dict[str, str]]:
    """Name and meaning of each arm that was run."""
    return [{"arm": name, "what": ARMS[name].what} for name in dict.fromkeys(r.arm for r in results)]


def _payback(own: Sequence[ArmResult]) -> str:
    """Mean over seeds of what answers and training cost, by the mean saving per query."""
    spent = [None if r.answers_usd is None or r.train_usd is None else r.answers_usd + r.train_usd for r in own]
    saved = [r.report.overall.champion.cost_per_1000_usd for r in own]
    after = [r.report.overall.candidate.cost_per_1000_usd for r in own]
    if any(x is None for x in (*spent, *saved, *after)):
        return "unknown"
    per_query = float(np.mean([b.value - a.value for b, a in zip(saved, after, strict=True) if b and a])) / 1000
    return "never" if per_query <= 0 else f"{np.mean([x for x in spent if x is not None]) / per_query:,.0f}"


def _mean_text(values: Sequence[float | None], form: str) -> str:
    known: FloatArray = np.array([value for value in values if value is not None], np.float64)
    return format(float(known.mean()), form) if len(known) == len(values) else "unknown"
