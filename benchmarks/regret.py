"""What it costs to let ``auto`` choose: the distance from the best of four methods with the same seed.

    python -m benchmarks.regret results/mujoco.jsonl.gz results/auto.jsonl.gz
    python -m benchmarks.regret results/held_out.jsonl.gz

The files hold runs of the four methods and of ``auto``. Scores are those of the report where ``references.json`` has
the target; elsewhere 0 is a policy that acts at random in the source's task, and 1 the source there. Intervals are
those of the report (95 %, stratified bootstrap over seeds).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.public_scores import random_return
from daft_rl.report.cells import Cell
from daft_rl.report.scales import Scale, scales_by_reference
from daft_rl.report.statistics import compare, score_matrices
from daft_rl.report.storage import read_cells

REFERENCES = json.loads((Path(__file__).parent / "references.json").read_text("utf-8"))
CHOOSER = "auto"
METHODS = (CHOOSER, "ft", "ft_eval", "daft", "daft_realign")


def scale_of(cell: Cell) -> Scale:
    """Which returns on a cell's target count as 0 and 1."""
    if cell.target in REFERENCES:
        return scales_by_reference([cell], REFERENCES)[cell.target]
    return Scale(random_return(cell.result.task.removeprefix("mujoco/")), cell.mean("source", "zero_shot"), "at home")


def kept(cell: Cell) -> float:
    """The return on the source as a share of that before the transfer."""
    return cell.mean("source") / cell.mean("source", "zero_shot")


def main() -> None:
    """Print a row for each target, and the aggregates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    given = parser.parse_args()
    cells = [cell for cell in read_cells(given.files) if cell.method in METHODS]
    scales = {cell.target: scale_of(cell) for cell in cells}
    scores = score_matrices(cells, scales)
    regret = np.max([scores[name] for name in METHODS if name != CHOOSER], axis=0) - scores[CHOOSER]
    print(f"| target | {' | '.join(METHODS)} | regret | source kept |\n|{' --- |' * (len(METHODS) + 3)}")
    for column, target in enumerate(sorted(scales)):
        means = " | ".join(f"{scores[name][:, column].mean():.2f}" for name in METHODS)
        at_home = np.mean([kept(cell) for cell in cells if cell.method == CHOOSER and cell.target == target])
        print(f"| {target} | {means} | {regret[:, column].mean():.2f} | {at_home:.2f} |")
    for name in METHODS:
        at_home = np.mean([kept(cell) for cell in cells if cell.method == name])
        loss = np.max([scores[other] for other in METHODS if other != CHOOSER], axis=0) - scores[name]
        print(f"{name}: score {scores[name].mean():.2f}, regret {loss.mean():.3f}, largest {loss.max():.2f}", end=", ")
        print(f"source kept {at_home:.2f}")
    for name in METHODS[1:]:
        pair = {key: scores[key] for key in (CHOOSER, name)}
        print(f"{CHOOSER} - {name}: {compare(pair, name).mean_difference[CHOOSER]}")


if __name__ == "__main__":
    main()
