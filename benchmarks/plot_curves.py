"""Draw the learning curves of a file that ``collect.py`` wrote.

    python benchmarks/plot_curves.py benchmarks/results/NAME.json --task Ant-shifted --out benchmarks/results/NAME.png

One line per method: the mean over seeds of the periodic evaluations on the target; the band is the range over
seeds. Line styles differ, so that the figure reads in grey.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

STYLES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1))]


def draw(data: dict, task: str, title: str, out: Path) -> None:
    """Write the figure.

    :param data: what ``collect.py`` wrote
    :param task: the target task
    :param title: above the figure
    :param out: a PNG or SVG file
    """
    runs = [run for run in data["runs"] if run["task"] == task]
    by_method = defaultdict(list)
    for run in runs:
        by_method[run["method"]].append(run["curve"])
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    means = {
        method: np.mean([[r for _, r in curve] for curve in curves], axis=0) for method, curves in by_method.items()
    }
    for index, method in enumerate(sorted(means, key=lambda name: -means[name][-1])):
        returns = np.array([[r for _, r in curve] for curve in by_method[method]])
        steps = np.array([step for step, _ in by_method[method][0]]) / 1000
        (line,) = axes.plot(
            steps, means[method], linestyle=STYLES[index % len(STYLES)], label=f"{method} ({len(returns)})"
        )
        axes.fill_between(steps, returns.min(0), returns.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
    zero_shot = np.mean([run["zero_shot_target"] for run in runs])
    axes.axhline(zero_shot, color="0.4", linewidth=0.8)
    axes.annotate("zero-shot", (axes.get_xlim()[1], zero_shot), ha="right", va="bottom", color="0.4", fontsize=8)
    axes.set(xlabel="target steps (thousands)", ylabel="return on the target", title=title)
    axes.legend(frameon=False, fontsize=8, title="method (seeds)", title_fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)


def main() -> None:
    """Read and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--title", default="")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    draw(json.loads(arguments.data.read_text()), arguments.task, arguments.title or arguments.task, arguments.out)


if __name__ == "__main__":
    main()
