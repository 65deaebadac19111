"""The trade-off between target and source along the path of ``daft_rl.blend``, for several seeds of one transfer.

    python -m benchmarks.dial "daft=runs/a runs/b" "ft=runs/c" --out benchmarks/results/dial_ant

Each folder holds the ``blend.json`` of a run. ``--out`` gets a ``.json`` with every return, and a ``.png``: return on
the source against return on the target, a line per run from the source (alpha 0) to the fine-tuned policy (alpha 1).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

STYLES = {"color": ["#1f77b4", "#d62728", "#2ca02c"], "marker": ["o", "s", "^"], "linestyle": ["-", "--", ":"]}


def read(groups: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Name -> what its runs' ``blend.json`` say."""
    named = (group.partition("=")[::2] for group in groups)
    return {
        name: [json.loads((Path(folder) / "blend.json").read_text("utf-8")) for folder in folders.split()]
        for name, folders in named
    }


def draw(runs: dict[str, list[dict[str, Any]]], title: str, path: Path) -> None:
    """One line per run, alphas beside the points of the first."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for index, (name, group) in enumerate(runs.items()):
        look: Any = {key: values[index] for key, values in STYLES.items()}
        for number, run in enumerate(group):
            target, source = ([point[role]["mean"] for point in run["points"]] for role in ("target", "source"))
            axes.plot(target, source, label=name if number == 0 else None, markersize=5, alpha=0.8, **look)
            if number == 0:
                for x, y, point in zip(target, source, run["points"], strict=True):
                    axes.annotate(f"{point['alpha']:g}", (x, y), xytext=(5, 6), textcoords="offset points", fontsize=8)
    axes.set(xlabel="return on the target", ylabel="return on the source", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Read, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", metavar="NAME=FOLDERS")
    parser.add_argument("--title", default="")
    parser.add_argument("--out", type=Path, required=True, help="without a suffix")
    given = parser.parse_args()
    runs = read(given.groups)
    given.out.with_suffix(".json").write_text(json.dumps(runs, indent=1) + "\n", "utf-8")
    draw(runs, given.title, given.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
