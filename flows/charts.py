"""The report's pictures, as inline SVG: they work offline and stay sharp at any size."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cascade.calibration import ReliabilityBin, RiskCoverage
from monitoring.records import Check

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


@dataclass(frozen=True, slots=True)
class FrontierLine:
    """One line or point of a cost-quality picture. `costs` are shares of always-flagship, `qualities` mean grades."""

    label: str
    costs: tuple[float, ...]
    qualities: tuple[float, ...]
    kind: Literal["reference", "floor", "policy", "chosen", "point"]


def frontier_picture(path: Path, title: str, lines: Sequence[FrontierLine]) -> None:
    """Draw quality over cost into a PNG file, whole or not at all."""
    figure = _figure(8.4, 5.0)
    axes = figure.subplots()
    colours = iter(PALETTE[1:] * 3)
    for line in lines:
        if line.kind == "point":
            axes.plot(line.costs, line.qualities, "o", color=INK, markersize=6, zorder=5)
            axes.annotate(line.label, (line.costs[0], line.qualities[0]), xytext=(6, -12), textcoords="offset points",
                          fontsize=8, ha="right" if line.costs[0] > 0.8 else "left")  # fmt: skip
            continue
        colour = {"reference": BEFORE, "floor": MUTED, "chosen": AFTER}.get(line.kind) or next(colours)
        style = ":" if line.kind == "floor" else "--" if line.kind == "reference" else "-"
        width = 2.2 if line.kind == "chosen" else 1.2
        axes.plot(line.costs, line.qualities, style, color=colour, linewidth=width, label=line.label)
    axes.set(xlabel="cost, share of always asking the flagship", ylabel="quality (mean grade)", title=title)
    axes.set_xlim(left=0)
    _plain(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    temporary = path.with_name(path.name + ".tmp")
    figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
    temporary.replace(path)


@dataclass(frozen=True, slots=True)
class Spot:
    """One cluster on the map."""

    label: int
    name: str
    size: int
    cost_usd: float | None
    """What its escalations cost; None where unknown, and then all spots go by `size`."""


def cluster_map(coords: NDArray[np.float32], labels: NDArray[np.int64], spots: Sequence[Spot]) -> str:
    """The map as inline SVG. `coords` (n, 2), `labels` (n,) with -1 for noise."""
    return _svg(_map(coords, labels, spots))


def cluster_map_png(coords: NDArray[np.float32], labels: NDArray[np.int64], spots: Sequence[Spot]) -> bytes:
    """The same map as a PNG file's bytes."""
    buffer = io.BytesIO()
    _map(coords, labels, spots).savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _map(coords: NDArray[np.float32], labels: NDArray[np.int64], spots: Sequence[Spot]) -> Figure:
    """Dots are escalated queries, coloured by cluster; a disc at a cluster's middle has the area of its cost."""
    figure = _figure(8.6, 4.9)
    axes = figure.subplots()
    shown = _thinned(len(coords))
    coords, labels = coords[shown], labels[shown]
    noise = labels == -1
    axes.scatter(coords[noise, 0], coords[noise, 1], s=5, c=MUTED, linewidths=0)
    by_cost = all(spot.cost_usd is not None for spot in spots)
    weights = [(spot.cost_usd if by_cost else spot.size) or 0.0 for spot in spots]
    largest = max(weights, default=0.0) or 1.0
    for rank, place in enumerate(sorted(range(len(spots)), key=lambda i: -weights[i])):
        spot, inside = spots[place], labels == spots[place].label
        if not inside.any():
            continue
        colour = PALETTE[rank % len(PALETTE)]
        axes.scatter(coords[inside, 0], coords[inside, 1], s=6, color=colour, linewidths=0)
        middle = np.median(coords[inside], axis=0)
        label = f"{spot.name} ({_amount(spot, by_cost)})" if rank < 14 else None
        area = 30 + 900 * weights[place] / largest
        axes.scatter(
            middle[0], middle[1], s=area, color=colour, alpha=0.3, edgecolors=colour, linewidths=1, label=label
        )
        if rank < 30:
            axes.annotate(spot.name.split(" ")[0], middle, fontsize=6, ha="center", va="center", color=INK)
    axes.set(xticks=[], yticks=[])
    axes.set_title(
        "disc area: " + ("cost of the cluster's escalations" if by_cost else "escalations"), fontsize=8, color=INK
    )
    for side in axes.spines.values():
        side.set_color(MUTED)
    if spots:
        legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
        for handle in legend.legend_handles:
            handle.set_sizes([40])  # type: ignore[union-attr]
    return figure


def _amount(spot: Spot, by_cost: bool) -> str:
    return f"{spot.size}, {spot.cost_usd:.3g} USD" if by_cost else str(spot.size)


def _thinned(n: int, most: int = 20_000) -> NDArray[np.int64]:
    """Rows that are drawn: all, or a fixed random choice of very many."""
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(0).choice(n, most, replace=False))


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


def weeks(check: Check) -> str:
    """A check's weekly values with their intervals, its bar, and the week in which an alarm began."""
    figure = _figure(5.2, 2.3)
    axes = figure.subplots()
    x = [f"{point.week:%d %b}" for point in check.series]
    values = [point.value for point in check.series]
    axes.fill_between(x, [p.low for p in check.series], [p.high for p in check.series], color=MUTED, alpha=0.6, lw=0)
    axes.plot(x, values, color=AFTER, marker="o", markersize=4, linewidth=1.6)
    if check.bar is not None:
        axes.axhline(-check.bar if check.falling else check.bar, color="#d1603d", linestyle="--", linewidth=1.1)
    if check.baseline is not None:
        axes.axhline(check.baseline, color=BEFORE, linestyle=":", linewidth=1.1)
    began = None if check.began is None else f"{check.began:%d %b}"
    if began in x:
        axes.axvline(x.index(began), color="#d1603d", linewidth=6, alpha=0.25)
    axes.margins(x=0.05)
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


def reliability_diagram(curves: Mapping[str, Sequence[ReliabilityBin]]) -> str:
    """Predicted against observed share of wrong answers, one line per name; a dot's size grows with its answers."""
    figure = _figure(4.4, 4.0)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="perfect")
    for (name, bins), colour in zip(curves.items(), (BEFORE, AFTER, *PALETTE[1:]), strict=False):
        x, y = [b.predicted for b in bins], [b.observed for b in bins]
        total = sum(b.n for b in bins)
        axes.plot(x, y, color=colour, linewidth=1.4, label=name)
        axes.scatter(x, y, s=[12 + 180 * b.n / total for b in bins], color=colour, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted P(wrong)", ylabel="share of wrong answers")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    _plain(axes)
    return _svg(figure)


def risk_coverage_curve(curves: Mapping[str, RiskCoverage], target: float | None = None) -> str:
    """Error among accepted answers by how much is accepted, one line per name, and the target as a line."""
    figure = _figure(5.2, 3.2)
    axes = figure.subplots()
    for (name, curve), colour in zip(curves.items(), (AFTER, BEFORE, *PALETTE[1:]), strict=False):
        label = f"{name} (AURC {curve.aurc:.3f})"
        axes.plot(curve.coverage, curve.risk, color=colour, linewidth=1.6, label=label)
    if target is not None:
        axes.axhline(target, color=INK, linewidth=0.9, linestyle="--", label=f"target {target:.1%}")
    axes.set(xlim=(0, 1), xlabel="share of answers accepted", ylabel="wrong among accepted")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    return _svg(figure)


@dataclass(frozen=True, slots=True)
class Curve:
    """Savings of one arm by number of answers, with intervals; shares of the champion's cost."""

    label: str
    answers: tuple[int, ...]
    values: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    strong: bool = False


def learning_curves(curves: Sequence[Curve], quality: str) -> str:
    """Cost saved by answers offered, one line per arm, at the quality of this name; as inline SVG."""
    return _svg(_learning(curves, quality))


def learning_curves_png(path: Path, curves: Sequence[Curve], quality: str) -> None:
    """The same as a PNG file, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    _learning(curves, quality).savefig(temporary, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    temporary.replace(path)


def _learning(curves: Sequence[Curve], quality: str) -> Figure:
    figure = _figure(8.4, 4.4)
    axes = figure.subplots()
    axes.axhline(0, color=MUTED, linewidth=1)
    levels = sorted({n for curve in curves for n in curve.answers})
    colours = iter(PALETTE[1:] * 3)
    for rank, curve in enumerate(curves):
        # Side by side, so that intervals at one number of answers do not hide each other.
        shift = (rank - (len(curves) - 1) / 2) * 0.06
        places = [levels.index(n) + shift for n in curve.answers]
        below = [100 * (value - low) for value, low in zip(curve.values, curve.lows, strict=True)]
        above = [100 * (high - value) for value, high in zip(curve.values, curve.highs, strict=True)]
        axes.errorbar(
            places,
            [100 * value for value in curve.values],
            yerr=[below, above],
            label=curve.label,
            color=AFTER if curve.strong else next(colours),
            linewidth=2.2 if curve.strong else 1.2,
            marker="o",
            markersize=4,
            capsize=3,
        )
    axes.set_xticks(range(len(levels)), [f"{level:,}" for level in levels])
    axes.set(xlabel="flagship answers offered", ylabel=f"cost saved at {quality} quality, %")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    _plain(axes)
    return figure


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
