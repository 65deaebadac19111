"""Figures of a report. No two methods share both line style and marker, so figures can be read without color."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from daft_rl.report.cells import Cell, Floats
from daft_rl.report.statistics import Estimate
from daft_rl.rollout.returns import Returns

mpl.rcParams["text.parse_math"] = False  # a name may hold a dollar sign

__all__ = [
    "as_png",
    "estimate_lines",
    "final_return_bars",
    "interval_bars",
    "learning_curves",
    "run_scatter",
    "trade_off",
]

STYLES = ["-", "--", "-.", ":"]
MARKERS = "osD^v<>PX*hpd8"
PAIRS = mpl.colormaps["tab20"].colors  # type: ignore[attr-defined]
COLORS = [*PAIRS[::2], *PAIRS[1::2]]  # strong colors first
BANDED = ("ft", "daft")
"""Methods that are drawn with thick lines and a band for their spread. More than two bands would hide each other."""

LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8, "loc": "center left", "bbox_to_anchor": (1.0, 0.5)}


def _look(index: int, method: str) -> dict[str, Any]:
    """Colour, line style and marker of a method."""
    return {
        "linewidth": 2.4 if method in BANDED else 1.2,
        "color": COLORS[index % len(COLORS)],
        "linestyle": STYLES[index % len(STYLES)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4,
    }


def _finish(axes: plt.Axes, legend: bool = False) -> None:
    """Remove the frame, and add a legend if it is wanted."""
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(**LEGEND)


def _finish_lines(axes: plt.Axes) -> None:
    """Add a legend in the order in which the lines end, from top to bottom."""
    _finish(axes)
    lines = sorted(axes.get_lines(), key=lambda line: -np.asarray(line.get_ydata())[-1])
    axes.legend(handles=lines, **LEGEND)


def as_png(figure: Figure) -> bytes:
    """Close a figure and return it as a PNG file of 256 colours, which has a third of the size."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    plt.close(figure)
    image = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(small, "png", optimize=True)
    return small.getvalue()


def _by_method(cells: list[Cell]) -> dict[str, list[Cell]]:
    return {method: [c for c in cells if c.method == method] for method in sorted({c.method for c in cells})}


def learning_curves(cells: list[Cell]) -> Figure:
    """Return on one target over target steps: the mean over seeds, and their range as a band for :data:`BANDED`."""
    figure, axes = plt.subplots(figsize=(7.4, 3.8), layout="constrained")
    for index, (method, group) in enumerate(_by_method(cells).items()):
        drawn = [cell.curve for cell in group if len(cell.curve[0]) > 1]
        if not drawn:
            continue
        evaluated = np.unique(np.concatenate([steps for steps, _ in drawn]))  # after a race runs may lack some
        steps, returns = evaluated / 1000, np.array([np.interp(evaluated, *curve) for curve in drawn])
        (line,) = axes.plot(steps, returns.mean(0), label=method, **_look(index, method))
        if method in BANDED:
            axes.fill_between(
                steps / 1000, returns.min(0), returns.max(0), color=line.get_color(), alpha=0.15, linewidth=0
            )
    zero_shot = float(np.mean([cell.mean(when="zero_shot") for cell in cells]))
    axes.axhline(zero_shot, color="0.4", linewidth=0.8, label="zero-shot")
    axes.set(xlabel="target steps (thousands)", ylabel="return on the target", title=cells[0].target)
    _finish_lines(axes)
    return figure


def final_return_bars(cells: list[Cell]) -> Figure:
    """Final return on one target by method. A dot is a seed."""
    groups = _by_method(cells)
    figure, axes = plt.subplots(figsize=(6.4, 0.32 * len(groups) + 1.2), layout="constrained")
    for row, group in enumerate(groups.values()):
        returns = [cell.mean() for cell in group]
        axes.barh(row, np.mean(returns), color="0.8", edgecolor="0.3")
        axes.plot(returns, [row] * len(returns), "k.", markersize=4)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.invert_yaxis()
    axes.set(xlabel="return on the target", title=cells[0].target)
    _finish(axes)
    return figure


def trade_off(returns: Mapping[float, Mapping[str, Returns]], chosen: float) -> Figure:
    """Return against alpha on the path between two policies, one panel per task, with standard errors.

    :param returns: alpha -> task -> returns
    :param chosen: the alpha to mark
    """
    alphas = sorted(returns)
    roles = list(returns[alphas[0]])
    figure, panels = plt.subplots(
        1, len(roles), figsize=(3.4 * len(roles), 3.0), layout="constrained", squeeze=False, sharex=True
    )
    for role, axes in zip(roles, panels[0], strict=True):
        found = [returns[alpha][role] for alpha in alphas]
        axes.errorbar(alphas, [one.mean for one in found], [one.standard_error for one in found], fmt="ko-", capsize=3)
        axes.axvline(chosen, color="0.6", linewidth=0.8, linestyle="--")
        axes.set(title=role, xlabel="alpha (0: source, 1: fine-tuned)", ylabel="return")
        _finish(axes)
    return figure


def run_scatter(cells: list[Cell], value: Callable[[Cell], float | None], label: str, title: str) -> Figure:
    """Final return on the target against a value, with one point per run.

    :param value: the value on the horizontal axis. A run without one is left out
    :param label: of the horizontal axis
    """
    figure, axes = plt.subplots(figsize=(7.4, 4.2), layout="constrained")
    for index, (method, group) in enumerate(_by_method(cells).items()):
        points = [(value(cell), cell.mean()) for cell in group if value(cell) is not None]
        if points:
            look = _look(index, method) | {"linestyle": "none", "markersize": 5}
            axes.plot(*zip(*points, strict=True), alpha=0.8, label=method, **look)
    axes.set(xlabel=label, ylabel="return on the target", title=title)
    _finish(axes, legend=True)
    return figure


def interval_bars(estimates: Mapping[str, Estimate], label: str, reference: float | None = None) -> Figure:
    """Estimates with their intervals, the highest on top.

    :param reference: draws a vertical line there
    """
    ordered = sorted(estimates.items(), key=lambda item: item[1].value)
    figure, axes = plt.subplots(figsize=(6.4, 0.32 * len(ordered) + 1.0), layout="constrained")
    for row, (_, estimate) in enumerate(ordered):
        axes.plot([estimate.low, estimate.high], [row, row], color="0.3", linewidth=3, solid_capstyle="butt")
        axes.plot(estimate.value, row, "ko", markersize=5)
    axes.set_yticks(range(len(ordered)), [name for name, _ in ordered])
    if reference is not None:
        axes.axvline(reference, color="0.5", linewidth=0.8)
    axes.set(xlabel=label)
    _finish(axes)
    return figure


def estimate_lines(by_method: Mapping[str, list[Estimate]], across: Floats, labels: tuple[str, str]) -> Figure:
    """One line per method, with intervals as bands for :data:`BANDED`.

    :param by_method: method -> an estimate at each value of ``across``
    :param across: values on the horizontal axis
    :param labels: of the horizontal and the vertical axis
    """
    figure, axes = plt.subplots(figsize=(7.4, 3.8), layout="constrained")
    every = max(1, len(across) // 10)
    for index, (method, found) in enumerate(by_method.items()):
        (line,) = axes.plot(across, [e.value for e in found], label=method, markevery=every, **_look(index, method))
        if method in BANDED:
            low, high = [e.low for e in found], [e.high for e in found]
            axes.fill_between(across, low, high, color=line.get_color(), alpha=0.15)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    _finish_lines(axes)
    return figure
