"""Kill runs at random moments, let them go on, and compare what they end with to runs that nobody killed.

    python benchmarks/faults/kills.py --kills 10 --out runs/kills

kills each case ten times, by SIGKILL, SIGTERM and SIGINT in turn. Half of the runs are killed a second time after they
went on. ``kills.jsonl`` in the folder gets a line for each killed run; what is there is not done again. A run is a
process of its own: a fork of this one, which has imported the packages already.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sb3_contrib import CrossQ
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.save_util import load_from_zip_file

import daft_rl.benchmark  # noqa: F401 (before the forks)
from daft_rl.envs import make
from daft_rl.run.run import Run  # noqa: F401

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TIMES = ("wall_seconds", "phases", "seconds_beside", "machine", "command", "versions")
PATIENCE = 300.0
"""Seconds after which a run is taken to hang."""

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


@dataclass(frozen=True)
class Case:
    """A command line that is killed."""

    program: str
    overrides: tuple[str, ...]
    source: str | None = None
    """One of :data:`SOURCES`; ``None`` takes a shipped one."""

    def command(self, folder: Path, sources: Path) -> list[str]:
        """The arguments that begin a run in this folder."""
        few = FEW + (() if self.program == "pretrain" else TRANSFER)
        place = f"benchmark.folder={folder}" if self.program == "benchmark" else f"output_dir={folder}"
        agent = [] if self.source is None else [f"agent={sources / self.source}.zip"]
        return [*self.overrides, *few, *agent, place]


PENDULUM = ("env=gymnasium", "env.id=Pendulum-v1", "env.kwargs.g=5.0")
CASES = {
    "ppo": Case("transfer", ("env=Ant-shifted", *ON_POLICY)),
    "a2c": Case("transfer", ("env=HalfCheetah-shifted", *ON_POLICY), "A2C-HalfCheetah"),
    "sac": Case("transfer", ("env=HalfCheetah-shifted", *OFF_POLICY), "SAC-HalfCheetah"),
    "crossq": Case("transfer", ("env=HalfCheetah-shifted", "algo=crossq", *OFF_POLICY)),
    "vecnormalize": Case("transfer", ("env=HalfCheetah-shifted", "agent.normalize=update", *ON_POLICY)),
    "background": Case("transfer", ("env=Ant-shifted", "evaluate_in_background=true", *ON_POLICY)),
    "delay": Case("transfer", ("env=Ant-shifted", "env.shift.action_delay=2", *ON_POLICY)),
    "constraint": Case("transfer", ("env=SafetyPointGoal-shifted", "env.cost_limit=5", "vec=dummy", *ON_POLICY)),
    "workers": Case("transfer", ("env=Door-shifted", "vec=workers", *OFF_POLICY)),
    "pretrain": Case("pretrain", ("env=HalfCheetah", "algo=ppo", "recipe.settings.n_steps=32")),
    "pendulum-ppo": Case("transfer", (*PENDULUM, *ON_POLICY), "PPO-Pendulum"),
    "pendulum-a2c": Case("transfer", (*PENDULUM, *ON_POLICY), "A2C-Pendulum"),
    "pendulum-sac": Case("transfer", (*PENDULUM, *OFF_POLICY), "SAC-Pendulum"),
    "pendulum-crossq": Case("transfer", (*PENDULUM, *OFF_POLICY), "CrossQ-Pendulum"),
    "grid": Case("benchmark", ("preset=smoke", "method=ft,daft", "seed=0", *ON_POLICY)),
}


def run_program(program: str, arguments: list[str], log: Path) -> None:
    """Be ``python -m daft_rl.PROGRAM ARGUMENTS``, in a session of its own."""
    os.setsid()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = [f"daft_rl.{program}", *arguments]
    runpy.run_module(f"daft_rl.{program}", run_name="__main__", alter_sys=True)


class Process:
    """A run that has been started."""

    def __init__(self, program: str, arguments: list[str], log: Path) -> None:
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=run_program, args=(program, arguments, log))
        self.process.start()

    def kill(self, seconds: float, number: signal.Signals) -> bool:
        """Send a signal after some time. Ctrl-C reaches all processes of a terminal.

        :return: whether the run had not ended before
        """
        self.process.join(seconds)
        if self.process.exitcode is not None or self.process.pid is None:
            return False
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            os.kill(self.process.pid, number)
        return True

    def wait(self) -> int:
        """The exit code."""
        self.process.join(PATIENCE)
        code = self.process.exitcode
        assert self.process.pid is not None
        with suppress(ProcessLookupError):  # workers of a grid outlive it
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()
        if code is None:
            raise TimeoutError(f"A run has not ended after {PATIENCE} seconds.")
        return code


def outcome(folder: Path) -> dict[str, Any]:
    """What is left of a run or of a grid, without times: results, weights, episodes, by path."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in ("results.json", "card.json"):
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key not in TIMES}
        elif path.name in ("final.zip", "agent.zip", "best.zip"):
            tensors: Any = load_from_zip_file(path)[1]["policy"]
            found[name] = {key: tensor.tolist() for key, tensor in tensors.items()}
        elif path.name == "monitor.csv":
            rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
            found[name] = [[*row[:2], *row[3:]] for row in rows]
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what is not the same in both."""
    texts = [{key: json.dumps(value) for key, value in found.items()} for found in (one, other)]
    return sorted(key for key in {**one, **other} if texts[0].get(key) != texts[1].get(key))


def goes_on(case: Case, folder: Path, sources: Path) -> list[str]:
    """The arguments that let a run go on. A grid, and a run that was killed before it wrote anything, begin again."""
    if case.program == "benchmark" or not (folder / "config.yaml").is_file():
        return case.command(folder, sources)
    return [f"resume={folder}"]


def is_finished(case: Case, folder: Path) -> bool:
    """Whether a run wrote its result before it was killed."""
    return case.program != "benchmark" and any((folder / name).is_file() for name in ("results.json", "card.json"))


def kill_one(case: Case, number: int, folder: Path, sources: Path, seconds: float) -> dict[str, Any]:
    """Kill a run once or twice, and let it go on until it ends.

    :param seconds: that a run takes
    """
    draw = random.Random(f"{folder.name}-{number}")
    log = folder.with_suffix(".log")
    kills, codes, steps = [], [], []
    arguments = case.command(folder, sources)
    for kill in range(draw.choice([1, 1, 2])):
        process = Process(case.program, arguments, log)
        sent = SIGNALS[(number + kill) % len(SIGNALS)]
        after = draw.uniform(0.1, 1.0) * seconds
        if process.kill(after, sent):
            kills.append([sent.name, round(after, 2)])
        codes.append(process.wait())
        steps.append(sorted(int(path.stem) for path in folder.glob("**/checkpoints/*.zip") if path.stem.isdecimal()))
        if codes[-1] == 0 or is_finished(case, folder):
            break
        arguments = goes_on(case, folder, sources)
    if codes[-1] != 0 and not is_finished(case, folder):
        codes.append(Process(case.program, arguments, log).wait())
    return {"kills": kills, "exit_codes": codes, "checkpoints": steps}


def make_sources(folder: Path) -> None:
    """Make :data:`SOURCES`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (kind, task) in SOURCES.items():
        if not (folder / f"{name}.zip").is_file():
            kind("MlpPolicy", make(task), policy_kwargs={"net_arch": [32]}, seed=0, device="cpu").save(folder / name)


def reference(name: str, case: Case, folder: Path, sources: Path) -> tuple[dict[str, Any], float]:
    """What a run ends with that nobody kills, and how long it takes."""
    whole, note = folder / f"{name}-whole", folder / f"{name}-whole.json"
    if not note.is_file():
        shutil.rmtree(whole, ignore_errors=True)
        started = time.perf_counter()
        code = Process(case.program, case.command(whole, sources), whole.with_suffix(".log")).wait()
        if code:
            raise RuntimeError(f"{name} ends with exit code {code}: see {whole.with_suffix('.log')}")
        note.write_text(json.dumps(time.perf_counter() - started))
    return outcome(whole), json.loads(note.read_text())


def main() -> None:
    """Kill, and write a line for each killed run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="killed runs per case")
    parser.add_argument("--out", type=Path, default=Path("runs/kills"))
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES), metavar="CASE")
    given = parser.parse_args()
    torch.set_num_threads(1)
    make_sources(given.out / "sources")
    lines = given.out / "kills.jsonl"
    done = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    known = {(line["case"], line["number"]) for line in done}
    for number in range(given.kills):
        for name in given.cases:
            if (name, number) in known:
                continue
            case, folder = CASES[name], given.out / f"{name}-{number}"
            expected, seconds = reference(name, case, given.out, given.out / "sources")
            shutil.rmtree(folder, ignore_errors=True)
            line = {"case": name, "number": number}
            line |= kill_one(case, number, folder, given.out / "sources", seconds)
            changed = differences(expected, outcome(folder))
            line |= {"equal": not changed, "changed": changed}
            with lines.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            if not changed:
                with suppress(OSError):
                    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
