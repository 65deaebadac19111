"""Kill runs at random and at chosen moments, let them go on, and compare what they end with to runs nobody killed.

    python benchmarks/faults/kills.py --kills 10 --out runs/kills

kills each case ten times, by SIGKILL, SIGTERM and SIGINT in turn. Half of the runs are killed a second time after they
went on. With ``--moments`` the first kill comes while a file is written, or as an evaluation is forked. A grid is
killed itself, or one of its workers is. ``kills.jsonl`` in the folder gets a line for each killed run; what is there
is not done again. A run is a process of its own: a fork of this one, which has imported the packages already. A grid is
a new interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import daft_rl.benchmark  # noqa: E402, F401 (before the forks)
from benchmarks.faults.cases import CASES, Case, make_sources  # noqa: E402
from benchmarks.faults.leftovers import broken_files, differences, outcome, unfinished_files  # noqa: E402
from benchmarks.faults.moments import PHASES, WRITING, Moment  # noqa: E402
from benchmarks.faults.processes import Process, workers  # noqa: E402
from daft_rl.run.run import Run  # noqa: E402, F401

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def goes_on(case: Case, folder: Path, sources: Path) -> list[str]:
    """The arguments that let a run go on. A grid, and a run that was killed before it wrote anything, begin again."""
    if case.program == "benchmark" or not (folder / "config.yaml").is_file():
        return case.command(folder, sources)
    return [f"resume={folder}"]


def unfinished_cell(folder: Path) -> Path | None:
    """A cell of a killed grid that can go on by itself."""
    cells = [path.parent for path in sorted(folder.rglob("config.yaml")) if any(path.parent.glob("checkpoints/*.zip"))]
    return next((cell for cell in cells if not (cell / "results.json").exists()), None)


class Killing:
    """A run that is killed once or twice, and goes on until it ends.

    :param seconds: that it takes
    :param aimed: whether the first kill comes at a chosen moment
    """

    def __init__(self, case: Case, number: int, folder: Path, sources: Path, seconds: float, aimed: bool) -> None:
        self.case, self.number, self.folder, self.sources, self.seconds = case, number, folder, sources, seconds
        self.draw = random.Random(f"{folder.name}-{number}")
        self.log = folder.with_suffix(".log")
        self.moment = self._choose() if aimed else None
        self.of_worker = False
        """Whether the last kill was that of a worker, after which nothing can delete what it was writing."""
        self.line: dict[str, Any] = {
            name: [] for name in ("kills", "exit_codes", "checkpoints", "orphans", "left", "broken")
        }

    def _choose(self) -> Moment:
        """Every file and phase in turn, and all of it by each signal."""
        places = [place for name in self.case.moments for place in product([name], PHASES.get(name, WRITING))]
        turn, place = divmod(self.number, len(places))
        repeated = places[place][0] in ("checkpoint", "replay", "fork", "cell")
        return Moment(*places[place], self.draw.choice([1, 2]) if repeated else 1, SIGNALS[turn % len(SIGNALS)])

    def run(self) -> dict[str, Any]:
        """
        :return: the kills, and what was found after each
        """
        arguments = self.case.command(self.folder, self.sources)
        for kill in range(self.draw.choice([1, 1, 2])):
            if kill == 0 and self.moment is not None:
                self._at_moment(arguments, self.moment)
            else:
                self._at_random(arguments, SIGNALS[(self.number + kill) % len(SIGNALS)])
            if self.line["exit_codes"][-1] == 0:
                break
            arguments = goes_on(self.case, self.folder, self.sources)
        if self.line["exit_codes"][-1] != 0:
            cell = unfinished_cell(self.folder) if self.case.program == "benchmark" and self.number % 2 else None
            if cell is not None:
                self._finish(Process("transfer", [f"resume={cell}"], self.log))
            self._finish(self._start(arguments))
        self.line["left"] += unfinished_files(self.folder, self.log.with_suffix(".tmp"), ended=True)
        return self.line

    def _start(self, arguments: list[str]) -> Process:
        self.of_worker = False
        return Process(self.case.program, arguments, self.log, (lambda: None) if self.case.forks else None)

    def _at_moment(self, arguments: list[str], moment: Moment) -> None:
        note = self.folder.with_suffix(".moment")
        self._finish(Process(self.case.program, arguments, self.log, lambda: moment.arm(note)))
        if note.is_file():  # else the run ended before
            self.line["kills"].append([moment.number.name, str(moment)])
            note.unlink()

    def _at_random(self, arguments: list[str], number: signal.Signals) -> None:
        process = self._start(arguments)
        after = self.draw.uniform(0.1, 1.0) * self.seconds
        if not process.ended(after):
            pool = [] if self.case.forks or self.draw.random() < 0.6 else workers(process.pid)
            self.of_worker = bool(pool)
            if pool:
                os.kill(self.draw.choice(pool), signal.SIGKILL)
            else:
                process.send(number)
            self.line["kills"].append(["SIGKILL of a worker" if pool else number.name, round(after, 2)])
        self._finish(process)

    def _finish(self, process: Process) -> None:
        """Wait for the end, and look at what is left."""
        code, orphans = process.wait()
        self.line["exit_codes"].append(code)
        if code == 1:  # an error, where a signal ends a run with another code
            self.line["broken"].append("exit code 1")
        self.line["orphans"] += orphans
        found = [int(path.stem) for path in self.folder.glob("**/checkpoints/*.zip") if path.stem.isdecimal()]
        self.line["checkpoints"].append(sorted(found))
        self.line["broken"] += broken_files(self.folder)
        if code != -signal.SIGKILL and not self.of_worker:
            self.line["left"] += unfinished_files(self.folder, self.log.with_suffix(".tmp"), ended=False)


def reference(name: str, case: Case, folder: Path, sources: Path) -> tuple[dict[str, Any], float]:
    """What a run ends with that nobody kills, and how long it takes."""
    whole, note = folder / f"{name}-whole", folder / f"{name}-whole.json"
    if not note.is_file():
        shutil.rmtree(whole, ignore_errors=True)
        started = time.perf_counter()
        prepare = (lambda: None) if case.forks else None
        code, _ = Process(case.program, case.command(whole, sources), whole.with_suffix(".log"), prepare).wait()
        if code:
            raise RuntimeError(f"{name} ends with exit code {code}: see {whole.with_suffix('.log')}")
        note.write_text(json.dumps(time.perf_counter() - started))
    return outcome(whole), json.loads(note.read_text())


def kill_and_compare(name: str, number: int, out: Path, aimed: bool) -> dict[str, Any]:
    """Kill one run.

    :return: its line
    """
    kind = "moment" if aimed else "random"
    case, folder = CASES[name], out / (f"{name}-moment-{number}" if aimed else f"{name}-{number}")
    expected, seconds = reference(name, case, out, out / "sources")
    for path in (folder, folder.with_suffix(".tmp")):
        shutil.rmtree(path, ignore_errors=True)
    found = Killing(case, number, folder, out / "sources", seconds, aimed).run()
    changed = differences(expected, outcome(folder))
    line = {"case": name, "kind": kind, "number": number, **found, "equal": not changed, "changed": changed}
    if not (changed or line["orphans"] or line["left"] or line["broken"]):
        for path in (folder, folder.with_suffix(".tmp")):
            shutil.rmtree(path, ignore_errors=True)
    return line


def main() -> None:
    """Kill, and write a line for each killed run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="killed runs per case")
    parser.add_argument("--moments", action="store_true", help="kill at chosen moments")
    parser.add_argument("--out", type=Path, default=Path("runs/kills"))
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES), metavar="CASE")
    given = parser.parse_args()
    torch.set_num_threads(1)
    out = given.out.resolve()
    make_sources(out / "sources")
    lines = out / "kills.jsonl"
    done = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    known = {(line["case"], line.get("kind", "random"), line["number"]) for line in done}
    for number, name in product(range(given.kills), given.cases):
        if (name, "moment" if given.moments else "random", number) in known:
            continue
        line = kill_and_compare(name, number, out, given.moments)
        with lines.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
