"""Tables of a report. A table is a list of rows, and a row maps the names of columns to text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from daft_rl.report.cells import Cell, Floats, When
from daft_rl.report.scales import Scale
from daft_rl.report.statistics import Comparison, Estimate

__all__ = [
    "Table",
    "escaped",
    "layer_table",
    "markdown",
    "printable",
    "race_table",
    "score_table",
    "spread",
    "summary_table",
    "target_table",
]

Table = list[dict[str, str]]

LEARNING = ("simulation", "inference", "update", "calibration")
"""Activities whose time is counted as learning."""
SCORE_THRESHOLDS = (0.25, 0.5, 0.75)
"""Normalized scores for which a table tells the target steps until they are reached."""


def _learning_seconds(cell: Cell) -> float | None:
    seconds = cell.result.seconds_by_activity
    return sum(seconds.get(activity, 0.0) for activity in LEARNING) or None


COLUMNS: dict[str, Callable[[Cell], float | None]] = {
    "target": Cell.mean,
    "area": lambda cell: cell.area,
    "elsewhere": Cell.mean_elsewhere,
    "source": Cell.mean_on_source,
    "cost": lambda cell: cell.returns()["target"].mean_cost,
    "actor cosine": lambda cell: cell.last_distance("distortion_actor_cosine"),
    "critic cosine": lambda cell: cell.last_distance("distortion_critic_cosine"),
    "BN drift": lambda cell: cell.last_distance("batchnorm_mean_drift"),
    "seconds": lambda cell: cell.result.wall_seconds,
    "learning seconds": _learning_seconds,
    "MB": lambda cell: cell.peak_memory_mb,
}
"""Columns of a target's table: the value of one cell."""


def spread(values: Sequence[float | None], digits: int = 2) -> str:
    """Mean and standard deviation over seeds; empty if no value is given.

    :param values: one per seed; ``None`` is left out
    :param digits: after the point, for values below 100. Larger values have none
    """
    given = [value for value in values if value is not None]
    if not given:
        return ""
    digits = 0 if max(abs(value) for value in given) >= 100 else digits
    mean = f"{np.mean(given):.{digits}f}"
    return f"{mean} ± {np.std(given, ddof=1):.{digits}f}" if len(given) > 1 else mean


def _steps_to(cells: list[Cell], threshold: float) -> str:
    """Median target steps of the seeds that reach a return, and how many do. Empty if no run learns."""
    reached = [steps for cell in cells if (steps := cell.steps_to(threshold)) is not None]
    if not any(len(cell.result.curve) for cell in cells):
        return ""
    return (f"{np.median(reached):.0f} " if reached else "") + f"({len(reached)} of {len(cells)})"


def _share_kept(cells: list[Cell], measure: Callable[[Cell, When], float | None]) -> str:
    """Return after the transfer divided by the return before it, as a mean over targets.

    :param cells: runs of one method
    :param measure: a return before or after the transfer
    :return: empty if returns before the transfer are missing or not positive, where a share has no meaning
    """
    shares = []
    for target in {cell.target for cell in cells}:
        group = [cell for cell in cells if cell.target == target]
        before = [measure(cell, "zero_shot") for cell in group]
        after = [measure(cell, "final") for cell in group]
        if None in (*before, *after) or np.mean(before) <= 0:  # type: ignore[arg-type]
            return ""
        shares.append(np.mean(after) / np.mean(before))  # type: ignore[arg-type]
    return f"{np.mean(shares):.2f}"


def summary_table(cells: list[Cell], matrices: Mapping[str, Floats], comparison: Comparison) -> Table:
    """One row per method with statistics over all targets, the highest interquartile mean first."""

    def shown(estimates: Mapping[str, Estimate], method: str) -> str:
        """Empty for the baseline itself."""
        return str(estimates[method]) if method in estimates else ""

    rows = []
    for method in comparison.ranked:
        own = [cell for cell in cells if cell.method == method]
        rows.append(
            {
                "method": method,
                "runs": str(matrices[method].size),
                "IQM": str(comparison.iqm[method]),
                f"IQM - {comparison.baseline}": shown(comparison.iqm_difference, method),
                "mean": str(comparison.mean[method]),
                f"mean - {comparison.baseline}": shown(comparison.mean_difference, method),
                f"P(> {comparison.baseline})": shown(comparison.improvement, method),
                "source kept": _share_kept(own, Cell.mean_on_source),
                "elsewhere kept": _share_kept(own, Cell.mean_elsewhere),
            }
        )
    return rows


def score_table(methods: Sequence[str], targets: Sequence[str], matrices: Mapping[str, Floats]) -> Table:
    """Scores by method and target: mean and standard deviation over seeds."""
    return [
        {"method": method}
        | {target: spread(list(scores)) for target, scores in zip(targets, matrices[method].T, strict=True)}
        for method in methods
    ]


def target_table(cells: list[Cell], scale: Scale) -> Table:
    """One row per method with the :data:`COLUMNS` of its runs on one target. Columns without any value are left out.

    :param cells: runs on that target
    """
    rows = []
    for method in sorted({cell.method for cell in cells}):
        group = [cell for cell in cells if cell.method == method]
        row = {"method": method, "seeds": str(len(group))}
        row |= {name: spread([value(cell) for cell in group]) for name, value in COLUMNS.items()}
        row |= {f"steps to {score:g}": _steps_to(group, scale.return_at(score)) for score in SCORE_THRESHOLDS}
        rows.append(row)
    return [{name: row[name] for name in row if any(other[name] for other in rows)} for row in rows]


def layer_table(cells: list[Cell], role: str) -> Table:
    """Feature distortion on one target: a row per layer, and a column per method.

    :param cells: runs on that target
    :param role: ``target`` or ``source``, whose states the features were computed on
    """
    methods = sorted({cell.method for cell in cells})
    layers = list(dict.fromkeys(layer for cell in cells for layer in cell.layers(role)))

    def distances(method: str, layer: str) -> str:
        """Empty if the method's networks have no such layer. Some methods insert BatchNorm layers."""
        runs = [cell.layers(role) for cell in cells if cell.method == method]
        values = [by_layer[layer] for by_layer in runs if layer in by_layer]
        names = ("cosine", "l2", "cka") if values else ()
        return " / ".join(f"{np.mean([one[name] for one in values]):.3g}" for name in names)

    return [{"layer": layer} | {method: distances(method, layer) for method in methods} for layer in layers]


def race_table(cells: list[Cell]) -> Table:
    """How runs chose their method on one target: a row per run whose method is a race.

    :param cells: runs on that target
    """

    def told(arm: Mapping[str, Any]) -> str:
        played = arm.get("returns", {}).get("target")
        return arm.get("left_out") or (f"returned {played['mean']:.4g}" if played else "did not play")

    def others(race: Mapping[str, Any]) -> str:
        return "; ".join(f"{name}: {told(arm)}" for name, arm in race["arms"].items() if name != race["winner"])

    def ending(race: Mapping[str, Any]) -> str:
        how = race.get("ending") or {"taken": "last"}  # older runs ended with the last policy
        return "the last policy" if how["taken"] == "last" else f"that of step {how['best_step']}: {how['why']}"

    return [
        {
            "run": f"{cell.method}, seed {cell.seed}",
            "learns by": race["winner"],
            "because": race["why"],
            "others": others(race),
            "ends with": ending(race),
        }
        for cell in sorted(cells, key=lambda cell: (cell.method, cell.seed))
        if (race := cell.result.race)
    ]


def printable(text: str) -> str:
    """Text in one line, without what a terminal would obey. Names in a report may come from a stranger's file."""
    return "".join(character if character.isprintable() else " " for character in text)


def escaped(text: str) -> str:
    """The same in Markdown, where it shows as it is: no markup, no HTML."""
    # an underscore inside of a word marks nothing: lp_ft
    return re.sub(r"[\\`*<&|\[\]~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", printable(text))


def markdown(rows: Table) -> str:
    """A table in Markdown."""
    names = list(rows[0])
    lines = [map(escaped, names), ["---"] * len(names), *([escaped(row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
