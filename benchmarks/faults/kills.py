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
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from sb3_contrib import CrossQ
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import daft_rl.benchmark  # noqa: E402, F401 (before the forks)
from benchmarks.faults.leftovers import broken_files, differences, outcome, unfinished_files  # noqa: E402
from benchmarks.faults.moments import PHASES, Moment  # noqa: E402
from benchmarks.faults.processes import Process, workers  # noqa: E402
from daft_rl.archives import save_agent  # noqa: E402
from daft_rl.envs import make  # noqa: E402
from daft_rl.run.run import Run  # noqa: E402, F401

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

FEW = (
    *("total_timesteps=2048", "num_envs=2", "calibration.steps=128", "progress_bar=false", "checkpoint.every=256"),
    *("checkpoint.share=1", "evaluation.episodes=1", "evaluation.episodes_during=1", "evaluation.every=700"),
)
TRANSFER = ("calibration.held_out=32",)
ON_POLICY = ("algo.settings.n_steps=32",)
OFF_POLICY = (
    *("algo.settings.learning_starts=200", "algo.settings.buffer_size=1000"),
    *("algo.settings.train_freq=8", "algo.settings.gradient_steps=1"),
)


SOURCES: dict[str, tuple[Any, str]] = {
    **{f"{kind.__name__}-HalfCheetah": (kind, "HalfCheetah") for kind in (A2C, SAC)},
    **{f"{kind.__name__}-Pendulum": (kind, "Pendulum-v1") for kind in (A2C, CrossQ, PPO, SAC)},
}
"""Small sources that are made here: name -> algorithm and task."""
NORMALIZED = "Normalized-Pendulum"
"""A source with VecNormalize."""


@dataclass(frozen=True)
class Case:
    """A command line that is killed."""

    program: str
    overrides: tuple[str, ...]
    source: str | None = None
    """One of :data:`SOURCES`; ``None`` takes a shipped one."""
    moments: tuple[str, ...] = ("checkpoint", "results", "archive", "settings", "identity")
    """What ``--moments`` aims at."""
    forks: bool = True
    """Whether the program is a fork of this process. Workers of joblib need a new interpreter."""

    def command(self, folder: Path, sources: Path) -> list[str]:
        """The arguments that begin a run in this folder."""
        own = {item.partition("=")[0] for item in self.overrides}
        usual = FEW + (() if self.program == "pretrain" else TRANSFER)
        few = [item for item in usual if item.partition("=")[0] not in own]
        place = f"benchmark.folder={folder}" if self.program == "benchmark" else f"output_dir={folder}"
        agent = [] if self.source is None else [f"agent={sources / self.source}.zip"]
        return [*few, *self.overrides, *agent, place]


PENDULUM = ("env=gymnasium", "env.id=Pendulum-v1", "env.kwargs.g=5.0")
SAFETY = ("env=SafetyPointGoal-shifted", "env.cost_limit=5", *ON_POLICY)
PRETRAIN = (
    *("env=HalfCheetah", "algo=ppo", "total_timesteps=1024", "checkpoint.every=128"),
    *("recipe.settings.n_steps=32", "recipe.settings.n_epochs=2"),
)
GRID = (
    *("preset=smoke", "method=ft,daft", "seed=0,1", "env.shift={}", "evaluation.elsewhere=[]", "algo=ppo"),
    *(*PENDULUM, *ON_POLICY),
)
FORKED = "evaluate_in_background=true"
CASES = {
    "ppo": Case("transfer", ("env=Ant-shifted", *ON_POLICY)),
    "a2c": Case("transfer", ("env=HalfCheetah-shifted", *ON_POLICY), "A2C-HalfCheetah"),
    "sac": Case("transfer", ("env=HalfCheetah-shifted", *OFF_POLICY), "SAC-HalfCheetah"),
    "crossq": Case("transfer", ("env=HalfCheetah-shifted", "algo=crossq", *OFF_POLICY)),
    "vecnormalize": Case("transfer", ("env=HalfCheetah-shifted", "agent.normalize=update", *ON_POLICY)),
    "background": Case("transfer", ("env=Ant-shifted", FORKED, *ON_POLICY)),
    "delay": Case("transfer", ("env=Ant-shifted", "env.shift.action_delay=2", *ON_POLICY)),
    "constraint": Case("transfer", (*SAFETY, "vec=dummy")),
    "constraint-workers": Case("transfer", (*SAFETY, "vec=workers")),
    "workers": Case("transfer", ("env=Door-shifted", "vec=workers", *OFF_POLICY, "total_timesteps=1024")),
    "threads": Case("transfer", ("env=HalfCheetah-shifted", "vec=threads", FORKED, *ON_POLICY), "A2C-HalfCheetah"),
    "pretrain": Case("pretrain", PRETRAIN),
    "pendulum-ppo": Case("transfer", (*PENDULUM, *ON_POLICY), "PPO-Pendulum"),
    "pendulum-a2c": Case("transfer", (*PENDULUM, *ON_POLICY), "A2C-Pendulum"),
    "pendulum-sac": Case(
        "transfer", (*PENDULUM, *OFF_POLICY), "SAC-Pendulum", ("checkpoint", "replay", "results", "archive")
    ),
    "pendulum-crossq": Case(
        "transfer", (*PENDULUM, *OFF_POLICY), "CrossQ-Pendulum", ("checkpoint", "replay", "results", "archive")
    ),
    "pendulum-workers": Case("transfer", (*PENDULUM, "vec=workers", *ON_POLICY), "PPO-Pendulum"),
    "pendulum-normalized": Case(
        "transfer", (*PENDULUM, *ON_POLICY), f"{NORMALIZED}/agent", ("archive", "best", "checkpoint")
    ),
    "pendulum-forked": Case("transfer", (*PENDULUM, FORKED, *OFF_POLICY), "SAC-Pendulum", ("fork", "best")),
    "grid": Case("benchmark", GRID, "PPO-Pendulum", forks=False),
    "grid-alone": Case(
        "benchmark",
        (*GRID, "hydra.launcher.n_jobs=1"),
        "PPO-Pendulum",
        moments=("cell", "zero_shot", "results", "archive", "checkpoint", "identity"),
    ),
}


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
        self.line: dict[str, Any] = {
            name: [] for name in ("kills", "exit_codes", "checkpoints", "orphans", "left", "broken")
        }

    def _choose(self) -> Moment:
        """Every file and phase in turn, and all of it by each signal."""
        names = [name for name in self.case.moments if name != "fork"]
        all_of_it = [*product(names, PHASES), *product(self.case.moments[:1], ("parent", "child"))]
        places = [place for place in all_of_it if (place[0] == "fork") == (place[1] in ("parent", "child"))]
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
        self.line["orphans"] += orphans
        found = [int(path.stem) for path in self.folder.glob("**/checkpoints/*.zip") if path.stem.isdecimal()]
        self.line["checkpoints"].append(sorted(found))
        self.line["broken"] += broken_files(self.folder)
        if code != -signal.SIGKILL and "SIGKILL of a worker" not in str(self.line["kills"]):
            self.line["left"] += unfinished_files(self.folder, self.log.with_suffix(".tmp"), ended=False)


def make_sources(folder: Path) -> None:
    """Make :data:`SOURCES`, and :data:`NORMALIZED`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (kind, task) in SOURCES.items():
        if not (folder / f"{name}.zip").is_file():
            _small(kind, make(task)).save(folder / name)
    place = folder / NORMALIZED / "agent.zip"
    if not place.is_file():
        place.parent.mkdir(exist_ok=True)
        normalizer = VecNormalize(make_vec_env("Pendulum-v1"))
        save_agent(_small(PPO, normalizer, n_steps=64).learn(256), place)


def _small(kind: Any, env: Any, **settings: Any) -> BaseAlgorithm:
    return kind("MlpPolicy", env, policy_kwargs={"net_arch": [32]}, seed=0, device="cpu", **settings)


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
