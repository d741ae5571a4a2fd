"""The comparison's page: one file, pictures inline, readable offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows import charts
from flows.arms import TARGETED
from flows.comparison import ArmResult, Figures, figures
from flows.comparison_tables import headline, held_rows, price_rows, rows_of, what_arms_are
from flows.context import RunContext
from flows.report import render
from flows.rundir import write_text


def write_page(ctx: RunContext, results: Sequence[ArmResult]) -> Path:
    """Render comparison.html into the run's folder; returns its path."""
    found = figures(results, held=ctx.config.compare_at_quality)
    quality = list(found[0].held)[-1]
    page = render(
        "comparison.html.j2",
        title=f"Where to spend flagship answers: {ctx.config.name}",
        run_id=ctx.run.run_id,
        since=f"{ctx.since:%Y-%m-%d}",
        until=f"{ctx.until:%Y-%m-%d}",
        headline=headline(found),
        chart=charts.learning_curves(curves_of(found, quality), quality),
        tables=[
            ("Savings by number of answers and arm", rows_of(found)),
            ("The same where thresholds are moved until all serve one quality", held_rows(found)),
            ("What each arm takes (means over seeds)", price_rows([result.taken() for result in results])),
            ("What the arms are", what_arms_are(results)),
            ("Single results", [result.row() for result in results]),
        ],
        n_heldout=results[0].report.n,
        target=ctx.config.calibration.max_error_accepted,
    )
    path = ctx.run.root / "comparison.html"
    write_text(path, page)
    return path


def curves_of(found: Sequence[Figures], quality: str) -> list[charts.Curve]:
    """One curve per arm, at the quality of this name; `targeted` drawn strong."""
    arms = dict.fromkeys(figure.arm for figure in found)
    curves = []
    for arm in arms:
        own = [figure for figure in found if figure.arm == arm]
        curves.append(
            charts.Curve(
                label=arm,
                answers=tuple(f.level for f in own),
                values=tuple(f.held[quality].cost.value for f in own),
                lows=tuple(f.held[quality].cost.low for f in own),
                highs=tuple(f.held[quality].cost.high for f in own),
                strong=arm == TARGETED.name,
            )
        )
    return curves
