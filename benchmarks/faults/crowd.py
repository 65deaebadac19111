"""Start eight runs at once in one tree while TensorBoard reads it, and compare each with the same run alone.

    python -m benchmarks.faults.crowd --out benchmarks/results/crowd.jsonl

The runs are started in the background of one shell loop, as job arrays do, and choose their folders themselves. Then
eight runs are given one folder, and two grids are started in one. ``--out`` gets a line for each run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from benchmarks.faults.cases import FEW, ON_POLICY, TRANSFER
from benchmarks.faults.leftovers import outcome
from benchmarks.faults.trials import without_places

ARGUMENTS = ("env=Ant-shifted", *ON_POLICY, *FEW, *TRANSFER)
DIFFERENT = (
    *("", "", ""),  # the same settings three times
    *("env.shift=gravity-0.5", "env.shift=gravity-2.0", "env.shift=friction-0.5", "method=ft", "seed=1"),
)
GRID = ("preset=smoke", "method=ft,daft", "seed=0,1", *ON_POLICY, *FEW, *TRANSFER, "hydra.launcher.n_jobs=1")
PATIENCE = 1200


def loop(program: str, commands: list[list[str]], cwd: Path, while_waiting: Callable[[], Any] = lambda: None) -> Any:
    """Start all in the background of one shell, and wait.

    :return: exit code, and what was written to stderr, of each
    """
    lines = [
        f'("$@" {" ".join(command)} >{i}.out 2>{i}.err; echo $? >{i}.code) &' for i, command in enumerate(commands)
    ]
    script = "\n".join([*lines, "wait"])
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", sys.executable, "-m", f"daft_rl.{program}"], cwd=cwd, stdin=subprocess.DEVNULL
    )
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            raise TimeoutError(f"the runs in {cwd} take too long")
        while_waiting()
        time.sleep(0.5)
    ends = [((cwd / f"{i}.code").read_text(), (cwd / f"{i}.err").read_text()) for i in range(len(commands))]
    return [(code.strip(), without_places(told, cwd)) for code, told in ends]


class Reader:
    """TensorBoard's own reader, over a tree of runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.reader, self.rounds = folder, EventMultiplexer(size_guidance={"scalars": 0}), 0

    def read(self) -> None:
        """Find new runs and new points."""
        if self.folder.is_dir():
            self.reader.AddRunsFromDirectory(str(self.folder))
            self.reader.Reload()
            self.rounds += 1

    def points(self) -> dict[str, int]:
        """Points of all scalars, by run."""
        found: dict[str, int] = {}
        for run, tags in self.reader.Runs().items():
            found[run] = sum(len(self.reader.Scalars(run, tag)) for tag in tags["scalars"])
        return found


def same_tree(work: Path) -> Iterator[dict[str, Any]]:
    """Eight runs choose their folders in one tree."""
    alone = {}
    for extra in dict.fromkeys(DIFFERENT):
        folder = work / f"alone-{extra.replace('=', '-') or 'default'}"
        if not (folder / "results.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            loop("transfer", [[*ARGUMENTS, *filter(None, [extra]), f"output_dir={folder.resolve()}"]], folder)
        alone[extra] = outcome(folder), Reader(folder)
    crowd = work / "crowd"
    shutil.rmtree(crowd, ignore_errors=True)
    crowd.mkdir()
    reader = Reader(crowd / "runs")
    ended = loop("transfer", [[*ARGUMENTS, *filter(None, [extra])] for extra in DIFFERENT], crowd, reader.read)
    reader.read()
    points = reader.points()
    folders = sorted(path.parent for path in crowd.glob("runs/**/config.yaml"))
    found = {folder: outcome(folder) for folder in folders}
    for extra, (code, told) in zip(DIFFERENT, ended, strict=True):
        expected, single = alone[extra]
        single.read()
        mine = next((folder for folder, result in found.items() if result == expected), None)
        line = {"what": "eight runs in one tree", "run": extra or "default", "exit_code": int(code)}
        line |= {"equal": mine is not None, "said": told.splitlines()[-2:], "rounds_of_reading": reader.rounds}
        if mine is not None:
            del found[mine]
            name = str(mine.relative_to(crowd / "runs"))
            line |= {"points": points.get(name), "points_alone": sum(single.points().values())}
            line["folder"] = str(mine.relative_to(crowd))
            line["left_over"] = [path.name for path in mine.rglob(".unfinished-*")]
        yield line


def same_folder(work: Path) -> Iterator[dict[str, Any]]:
    """Eight runs are given one folder: one gets it."""
    folder = work / "same-folder"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    ended = loop("transfer", [[*ARGUMENTS, f"output_dir={(folder / 'run').resolve()}"]] * 8, folder)
    expected = outcome(work / "alone-default")
    equal = outcome(folder / "run") == expected
    for (code, told), number in Counter((code, told.strip()[:200]) for code, told in ended).items():
        yield {"what": "eight runs in one folder", "runs": number, "exit_code": int(code), "said": told, "equal": equal}


def same_grid(work: Path) -> Iterator[dict[str, Any]]:
    """Two grids are started in one folder."""
    results = []
    for name, number in (("grid-alone", 1), ("grid-twice", 2)):
        folder = work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        ended = loop("benchmark", [[*GRID, f"benchmark.folder={(folder / 'grid').resolve()}"]] * number, folder)
        results.append({key: value for key, value in outcome(folder / "grid").items() if "results.json" in key})
    for code, told in ended:
        line = {"what": "two grids in one folder", "exit_code": int(code), "said": told.splitlines()[-2:]}
        yield line | {"cells": len(results[1]), "equal": results[0] == results[1]}


def main() -> None:
    """Start the crowds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/crowd/crowd.jsonl"))
    parser.add_argument("--folder", type=Path, default=Path("runs/crowd"))
    kinds = {"tree": same_tree, "folder": same_folder, "grid": same_grid}
    parser.add_argument("--kinds", nargs="*", default=list(kinds), choices=list(kinds))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with given.out.open("a", buffering=1) as file:  # a line at a time
        for kind in given.kinds:
            for line in kinds[kind](given.folder):
                file.write(json.dumps(line) + "\n")
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
