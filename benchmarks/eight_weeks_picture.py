"""The eight weeks in a table and a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.eight_weeks import Day

COLOURS = {
    "the traffic changed": "#d1603d",
    "prices rose": "#b8892f",
    "the verifier became lenient": "#7a4fa3",
    "the verifier rejects more": "#3b6fb6",
    "the answers got worse": "#8c564b",
    "the cascade costs too much": "#4f6d7a",
}


def week_rows(days: Sequence[Day]) -> list[dict[str, Any]]:
    """One row per week."""
    from benchmarks.eight_weeks_world import PLANS

    rows = []
    for week in sorted({day.week for day in days}):
        mine = [day for day in days if day.week == week]
        n = sum(day.n for day in mine)
        base = [day.baseline for day in mine if day.baseline is not None]
        alarms = [f"{cause} (day {day.day})" for day in mine for cause in day.told]
        rows.append(
            {
                "week": week,
                "what happens": PLANS.get(week, "-"),
                "queries": f"{n:,}",
                "escalated": f"{sum(day.escalated for day in mine) / n:.1%}",
                "baseline": f"{base[-1]:.1%}" if base else "-",
                "last day": f"{mine[-1].escalated / mine[-1].n:.1%}",
                "right": f"{sum(day.right for day in mine) / n:.1%}",
                "USD per 1,000": f"{1000 * sum(day.usd for day in mine) / n:.4f}",
                "alarms": "; ".join(alarms) or "-",
                "done": "; ".join(day.done for day in mine if day.done) or "-",
                "serves": mine[-1].champion,
            }
        )
    return rows


def draw(path: Path, days: Sequence[Day]) -> None:
    """Escalation rate, cost and quality by day, with what happened and what the monitor said."""
    from matplotlib.figure import Figure

    from benchmarks.eight_weeks_world import PLANS
    from flows.rundir import write_bytes

    figure = Figure(figsize=(11, 6.2), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1.2, 1.2])
    x = list(range(len(days)))
    full = max(day.n for day in days) / 2  # the cold start leaves its day few traces
    rates, usd, right = (
        [scale * getattr(day, name) / day.n if day.n > full else math.nan for day in days]
        for name, scale in (("escalated", 100), ("usd", 1000), ("right", 100))
    )
    top.plot(x, rates, color="#1d2430", linewidth=1.4, label="escalation rate, by day")
    spots = [(i, 100 * day.baseline) for i, day in enumerate(days) if day.baseline is not None]
    if spots:
        places, base = zip(*spots, strict=True)
        top.step(places, base, where="mid", color="#8a94a6", linestyle=":", label="baseline: last promotion")
        top.fill_between(places, base, [b + 5 for b in base], step="mid", color="#c9ced6", alpha=0.45, lw=0,
                         label="5 points above it")  # fmt: skip
    ceiling = 1.32 * max(rate for rate in rates if not math.isnan(rate))
    for i, day in enumerate(days):
        for place, cause in enumerate(day.told):
            top.plot(i, rates[i], "v", color=COLOURS[cause], markersize=10, zorder=5)
            behind = {"fc": "white", "ec": "none", "pad": 0.6, "alpha": 0.85}
            top.annotate(cause, (i, rates[i]), xytext=(6, 10 + 13 * place), textcoords="offset points", fontsize=8,
                         color=COLOURS[cause], bbox=behind)  # fmt: skip
        if day.done:
            top.axvline(i + 0.5, color="#1b7f5c", linewidth=1.2)
            spot = (i + 0.5, 0.01 * ceiling)  # below the curve, as a rule
            top.annotate(day.done, spot, rotation=90, fontsize=7.5, color="#1b7f5c", ha="right", va="bottom")
    for week in range(1, 1 + len(days) // 7):
        for axes in (top, middle, bottom):
            axes.axvline(7 * (week - 1) - 0.5, color="#e3e7ec", linewidth=0.8, zorder=0)
        if week in PLANS:
            top.annotate(
                fill(PLANS[week], 16), (7 * week - 4, ceiling), ha="center", va="top", fontsize=8, fontweight="bold"
            )
    top.set(ylim=(0, ceiling), ylabel="% escalated", title="Eight weeks; triangles: what the monitor said, and when")
    top.legend(loc="center left", frameon=False, fontsize=8)
    middle.plot(x, usd, color="#b8892f", linewidth=1.4)
    middle.set(ylabel="USD per 1,000", ylim=(0, None))
    bottom.plot(x, right, color="#1b7f5c", linewidth=1.4)
    bottom.set(ylabel="% right", xlabel="week")
    bottom.set_xticks([7 * w + 3 for w in range(len(days) // 7)], [str(w + 1) for w in range(len(days) // 7)])
    for axes in (top, middle, bottom):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
