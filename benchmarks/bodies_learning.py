"""Learning on other bodies, beside published returns: a table, and a figure with a panel for each target.

    python -m benchmarks.bodies_learning results/other_bodies.jsonl.gz --out results/other_bodies.png

Published returns are those of QAvatar (arXiv 2603.12087, SAC, its own simulators), and of plain fine-tuning there.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from daft_rl.report.cells import Cell
from daft_rl.report.figures import as_png
from daft_rl.report.storage import read_cells
from daft_rl.report.tables import Table, markdown, spread


class Published(NamedTuple):
    """Mean returns after some target steps."""

    steps: int
    fine_tuning: float
    qavatar: float


PUBLISHED = {
    "Ant-fivelegs": Published(350_000, 1640, 2860),
    "HalfCheetah-threelegs": Published(500_000, 10_800, 11_555),
    "Door-UR5e": Published(100_000, 129.9, 216.6),
    "Wipe-UR5e": Published(100_000, 42.1, 75.7),
    "SafetyDoggoGoal0": Published(500_000, 12.5, 39),
}
LOOKS = {"crossq": ("#1f77b4", "o"), "ppo": ("#d62728", "s"), "sac": ("#2ca02c", "^")}
"""By algorithm: colour and marker."""
LINES = {"auto": "-", "scratch": ":"}

Row = tuple[str, str, str, int]
"""Target, algorithm, method, target steps."""


def by_row(cells: list[Cell]) -> dict[Row, list[Cell]]:
    """The seeds of each row, targets in the order of the published ones."""
    rows: dict[Row, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (cell.result.algo, cell.method, cell.seed)):
        result = cell.result
        rows.setdefault((result.task, result.algo, cell.method, result.timesteps), []).append(cell)
    return {row: rows[row] for task in PUBLISHED for row in rows if row[0] == task}


def table(rows: Mapping[Row, list[Cell]]) -> Table:
    """Means over seeds, beside the published ones."""
    found: Table = []
    for (task, algo, method, steps), cells in rows.items():
        final, published = [cell.mean() for cell in cells], PUBLISHED[task]
        row = {"target": task, "algorithm": algo, "method": method, "steps": f"{steps:,}", "seeds": str(len(cells))}
        row |= {"zero-shot": spread([cell.mean(when="zero_shot") for cell in cells]), "final": spread(final)}
        row |= {"by seed": ", ".join(f"{one:.4g}" for one in final)}
        row |= {"published after": f"{published.steps:,}"}
        row |= {"fine-tuning": f"{published.fine_tuning:g}", "QAvatar": f"{published.qavatar:g}"}
        found.append(row)
    return found


def _draw_published(axes: plt.Axes, published: Published) -> None:
    for name, value, style in (("QAvatar", published.qavatar, "--"), ("fine-tuning", published.fine_tuning, ":")):
        axes.axhline(value, color="0.5", linestyle=style, linewidth=1)
        at_right = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "bottom"}
        axes.text(1, value, f"{name} ", fontsize=7, color="0.4", **at_right)  # type: ignore[arg-type]


def draw(rows: Mapping[Row, list[Cell]]) -> Figure:
    """Mean and range of the evaluations on the way, a panel for each target."""
    tasks = [task for task in PUBLISHED if any(row[0] == task for row in rows)]
    figure, panels = plt.subplots(1, len(tasks), figsize=(4.8 * len(tasks), 3.4), layout="constrained", squeeze=False)
    for task, axes in zip(tasks, panels[0], strict=True):
        for (_, algo, method, _), cells in ((row, group) for row, group in rows.items() if row[0] == task):
            evaluated = np.unique(np.concatenate([cell.curve[0] for cell in cells]))
            returns = np.array([np.interp(evaluated, *cell.curve) for cell in cells])
            color, marker = LOOKS[algo]
            look = {"color": color, "marker": marker, "markersize": 4, "label": f"{method}, {algo}"}
            axes.plot(evaluated / 1000, returns.mean(0), LINES.get(method, "--"), **look)
            axes.fill_between(evaluated / 1000, returns.min(0), returns.max(0), color=color, alpha=0.15, linewidth=0)
        _draw_published(axes, PUBLISHED[task])
        axes.set(title=task, xlabel="target steps (thousands)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="best")
    panels[0][0].set_ylabel("return on the target")
    return figure


def main() -> None:
    """Print the table, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="of the figure, a .png")
    given = parser.parse_args()
    rows = by_row(read_cells(given.files))
    print(markdown(table(rows)))
    if given.out is not None:
        given.out.write_bytes(as_png(draw(rows)))


if __name__ == "__main__":
    main()
