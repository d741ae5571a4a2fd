"""The report's pictures, as inline SVG: they work offline and stay sharp at any size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEFORE, AFTER, MUTED, INK = "#8a94a6", "#1b7f5c", "#c9ced6", "#1d2430"
PALETTE = (
    "#1b7f5c", "#d1603d", "#3b6fb6", "#b8892f", "#7a4fa3", "#2a9d9d",
    "#c2477f", "#6b8e23", "#8c564b", "#4f6d7a", "#e0a458", "#5b5fc7",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar with its interval; all three in the axis' own unit."""

    label: str
    value: float
    low: float
    high: float
    colour: str


def cluster_map(
    coords: NDArray[np.float32], labels: NDArray[np.int64], names: dict[int, str], counts: dict[int, int]
) -> str:
    """Scatter of escalations. `coords` (n, 2), `labels` (n,) with -1 for noise, names and sizes by label."""
    figure = _figure(8.6, 4.9)
    axes = figure.subplots()
    noise = labels == -1
    axes.scatter(coords[noise, 0], coords[noise, 1], s=7, c=MUTED, label=f"noise ({int(noise.sum())})")
    for rank, label in enumerate(sorted(counts, key=lambda k: -counts[k])):
        inside = labels == label
        colour = PALETTE[rank % len(PALETTE)]
        axes.scatter(
            coords[inside, 0],
            coords[inside, 1],
            s=9,
            color=colour,
            label=f"{names[label]} ({counts[label]})" if rank < 14 else None,
        )
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_color(MUTED)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8, markerscale=1.8)
    return _svg(figure)


def bars(rows: Sequence[Bar], axis: str, line: tuple[float, str] | None = None, percent: bool = False) -> str:
    """Horizontal bars with intervals, and an optional reference line (value, label)."""
    figure = _figure(5.2, 0.55 * len(rows) + 1.0)
    axes = figure.subplots()
    top = max([row.high for row in rows] + ([line[0]] if line else []))
    for position, row in enumerate(reversed(rows)):
        error = [[max(0.0, row.value - row.low)], [max(0.0, row.high - row.value)]]
        axes.barh(position, row.value, xerr=error, color=row.colour, height=0.55, ecolor=INK, capsize=3)
        text = f"{row.value:.1%}" if percent else f"{row.value:.3g}"
        axes.text(row.high + 0.02 * top, position, text, va="center", fontsize=9, color=INK)
    if line:
        axes.axvline(line[0], color="#d1603d", linestyle="--", linewidth=1.2)
        axes.text(line[0], len(rows) - 0.45, line[1], fontsize=8, color="#d1603d", ha="right")
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
    axes.set_xlim(0, 1.18 * top or 1)
    axes.set_xlabel(axis)
    _plain(axes)
    return _svg(figure)


def loss_curve(losses: Sequence[float], validation: Sequence[tuple[int, float]] = ()) -> str:
    """Training loss per step with its running mean, and (step, loss) of examples held back where there are any."""
    figure = _figure(5.2, 2.7)
    axes = figure.subplots()
    values = np.asarray(losses, dtype=float)
    axes.plot(np.arange(len(values)), values, color=MUTED, linewidth=0.8)
    window = max(1, len(values) // 25)
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    axes.plot(np.arange(window - 1, len(values)), smooth, color=AFTER, linewidth=1.6, label="training")
    if validation:
        axes.plot(*zip(*validation, strict=True), color="#d1603d", marker="o", markersize=3, label="held back")
        axes.legend(frameon=False)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss per completion token")
    axes.set_ylim(bottom=0)
    _plain(axes)
    return _svg(figure)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _plain(axes: object) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)  # type: ignore[attr-defined]


def _svg(figure: Figure) -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "cascade-distill", "svg.fonttype": "none", "font.size": 9}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
