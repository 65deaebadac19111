"""What it costs to let ``auto`` choose: the distance from the best of four methods with the same seed.

    python -m benchmarks.regret results/mujoco.jsonl.gz results/auto.jsonl.gz
    python -m benchmarks.regret results/held_out.jsonl.gz --choices results/held_out_choices.jsonl
    python -m benchmarks.regret results/full.jsonl.gz results/others_auto.jsonl.gz --recovered

The files hold runs of ``auto`` and of its arms; arms that none of them has are left out. Where one arm was left, its
run is that of ``auto``, so that a file of choices, with the target, the seed and the winner in each line, can take the
place of such runs. Scores are those of the report where ``references.json`` has the target; elsewhere 0 is a policy
that acts at random in the source's task, and 1 the source there. With ``--recovered`` 0 is the source in the target,
and 1 the source at home. Intervals are those of the report (95 %, stratified bootstrap over seeds).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.public_scores import random_return
from daft_rl.report.cells import Cell
from daft_rl.report.scales import Scale, scales_by_recovery, scales_by_reference
from daft_rl.report.statistics import aggregate, compare, score_matrices
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


def chosen(cells: list[Cell], target: str, seed: int, winner: str, **_: Any) -> Cell:
    """The run of an arm as that of ``auto``."""
    cell = next(cell for cell in cells if (cell.target, cell.seed, cell.method) == (target, seed, winner))
    return replace(cell, result=replace(cell.result, method=CHOOSER))


def main() -> None:
    """Print a row for each target, and the aggregates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--choices", type=Path)
    parser.add_argument("--recovered", action="store_true", help="score the share of the loss that is recovered")
    given = parser.parse_args()
    cells = [cell for cell in read_cells(given.files) if cell.method in METHODS]
    if given.choices is not None:
        cells += [chosen(cells, **json.loads(line)) for line in given.choices.read_text("utf-8").splitlines()]
    methods = [name for name in METHODS if any(cell.method == name for cell in cells)]
    scales = scales_by_recovery(cells) if given.recovered else {cell.target: scale_of(cell) for cell in cells}
    scores = score_matrices(cells, scales)
    regret = np.max([scores[name] for name in methods if name != CHOOSER], axis=0) - scores[CHOOSER]
    print(f"| target | {' | '.join(methods)} | regret | source kept |\n|{' --- |' * (len(methods) + 3)}")
    for column, target in enumerate(sorted(scales)):
        means = " | ".join(f"{scores[name][:, column].mean():.2f}" for name in methods)
        at_home = np.mean([kept(cell) for cell in cells if cell.method == CHOOSER and cell.target == target])
        print(f"| {target} | {means} | {regret[:, column].mean():.2f} | {at_home:.2f} |")
    for name in methods:
        at_home = np.mean([kept(cell) for cell in cells if cell.method == name])
        loss = np.max([scores[other] for other in methods if other != CHOOSER], axis=0) - scores[name]
        middle = aggregate({name: scores[name]})[name]
        print(f"{name}: score {scores[name].mean():.2f}, interquartile {middle}", end=", ")
        print(f"regret {loss.mean():.3f}, largest {loss.max():.2f}, source kept {at_home:.2f}")
    for name in methods[1:]:
        pair = {key: scores[key] for key in (CHOOSER, name)}
        print(f"{CHOOSER} - {name}: {compare(pair, name).mean_difference[CHOOSER]}")


if __name__ == "__main__":
    main()
