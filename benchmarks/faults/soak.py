"""Run long and cheap transfers, and watch what grows: memory, file descriptors, threads, files.

    python -m benchmarks.faults.soak --out benchmarks/results/soak.jsonl

A run is a process of its own, watched from outside through ``/proc``. ``--out`` gets a line for each sample and, at the
end of a case, a line with the slopes: what a least-squares line through the samples rises by in a million steps, its
standard error, and the least and most. The first fifth of the samples is left out, in which caches and buffers fill. A
case that is finished is not run again, and one that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import PPO

from benchmarks.faults.cases import make_sources
from daft_rl.envs import make
from daft_rl.run.names import EVENT_FILES

MEGABYTE = 1024**2
WARM = 0.2
"""Share of the samples at the start that no slope is fitted to."""
SMALL = (
    *("method=daft", "calibration.steps=256", "calibration.held_out=64", "progress_bar=false", "evaluation.episodes=5"),
    *("evaluation.episodes_during=2", "evaluation.every=10000", "checkpoint.every=20000"),
)
PPO_SETTINGS = ("algo.settings.n_steps=64", "algo.settings.n_epochs=2", "algo.settings.batch_size=256")
SAC_SETTINGS = ("algo.settings.train_freq=16", "algo.settings.gradient_steps=1", "algo.settings.buffer_size=50000")
PENDULUM = ("env=gymnasium", "env.id=Pendulum-v1", "env.kwargs.g=5.0")
CARTPOLE = ("env=gymnasium", "env.id=CartPole-v1")


@dataclass(frozen=True)
class Case:
    """A long run."""

    steps: int
    overrides: tuple[str, ...]
    source: str


CASES = {
    "ppo-cartpole": Case(2_000_000, (*CARTPOLE, *PPO_SETTINGS, "vec=dummy"), "PPO-CartPole"),
    "a2c-halfcheetah-threads": Case(
        2_000_000,
        ("env=HalfCheetah-shifted", "algo=a2c", "algo.settings.n_steps=32", "vec=threads"),
        "A2C-HalfCheetah",
    ),
    "ppo-pendulum-background": Case(
        2_000_000, (*PENDULUM, *PPO_SETTINGS, "vec=dummy", "evaluate_in_background=true"), "PPO-Pendulum"
    ),
    "sac-pendulum": Case(400_000, (*PENDULUM, *SAC_SETTINGS, "vec=dummy"), "SAC-Pendulum"),
    "ppo-pendulum-workers": Case(400_000, (*PENDULUM, *PPO_SETTINGS, "vec=workers"), "PPO-Pendulum"),
}


def sources(folder: Path) -> Path:
    """Make small sources.

    :return: their folder
    """
    make_sources(folder)
    if not (folder / "PPO-CartPole.zip").is_file():
        agent = PPO("MlpPolicy", make("CartPole-v1"), policy_kwargs={"net_arch": [32]}, seed=0, device="cpu")
        agent.save(folder / "PPO-CartPole")
    return folder


# -- one sample ----------------------------------------------------------------------------------------------


def family(process: int) -> list[int]:
    """A process and all that descend from it."""
    found = [process]
    for one in found:
        try:
            found += [int(child) for child in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
        except OSError:  # it has ended meanwhile
            continue
    return found


def _numbers(path: str) -> dict[str, int]:
    """The numbers of a file of ``/proc``, by name."""
    rows = (line.split() for line in Path(path).read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def look(process: int, folder: Path) -> dict[str, float]:
    """What a run has now.

    ``own_mb`` is the memory of all its processes without that of files; a page that a fork shares counts once.
    """
    status = _numbers(f"/proc/{process}/status")
    shares = 0.0
    everyone = family(process)
    for one in everyone:
        try:
            shares += _numbers(f"/proc/{one}/smaps_rollup")["Pss_Anon"] / 1024
        except (OSError, KeyError):
            continue
    size = {name: sum(p.stat().st_size for p in folder.glob(f"{name}*") if p.is_file()) for name in ("monitor.csv",)}
    events = sum(path.stat().st_size for path in folder.glob(EVENT_FILES))
    checkpoints = sum(path.stat().st_size for path in folder.glob("checkpoints/**/*.*"))
    return {
        "rss_mb": round(status["VmRSS"] / 1024, 2),
        "own_mb": round(shares, 2),
        "handles": len(list(Path(f"/proc/{process}/fd").iterdir())),
        "threads": status["Threads"],
        "processes": len(everyone),
        "tensorboard_mb": round(events / MEGABYTE, 3),
        "monitor_mb": round(size["monitor.csv"] / MEGABYTE, 3),
        "checkpoints_mb": round(checkpoints / MEGABYTE, 3),
    }


class Steps:
    """Counts the steps of a run by the episodes in its ``monitor.csv``, reading each line once."""

    def __init__(self, path: Path) -> None:
        self.path, self.position, self.total = path, 0, 0

    def count(self) -> int:
        """Steps of the episodes that have ended."""
        if not self.path.is_file():
            return 0
        with self.path.open(newline="") as file:
            file.seek(self.position)
            whole, _, _ = file.read().rpartition("\n")
            self.position += len(whole.encode()) + 1 if whole else 0
        for row in csv.reader(whole.splitlines()):
            if len(row) > 1 and row[1].isdecimal():
                self.total += int(row[1])
        return self.total


# -- one case ------------------------------------------------------------------------------------------------


def watch(name: str, case: Case, folder: Path, agents: Path, samples: int) -> Iterator[dict[str, Any]]:
    """Run a case to its end.

    :param samples: how many at most
    :return: samples, and at last the exit code
    """
    command = [
        *(sys.executable, "-m", "daft_rl.transfer", *case.overrides, *SMALL, f"total_timesteps={case.steps}"),
        *(f"agent={agents / case.source}.zip", f"output_dir={folder}"),
    ]
    started, steps, next_sample = time.monotonic(), Steps(folder / "monitor.csv"), 0
    with folder.with_suffix(".log").open("a") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while process.poll() is None:
                time.sleep(0.5)
                done = steps.count()
                if done < max(next_sample, 1):
                    continue
                try:
                    seen = look(process.pid, folder)
                except (OSError, KeyError):  # it is ending
                    continue
                yield {"case": name, "steps": done, "seconds": round(time.monotonic() - started, 1), **seen}
                next_sample = done + case.steps // samples
        finally:
            process.terminate()
            process.wait()
    yield {"case": name, "exit_code": process.returncode, "seconds": round(time.monotonic() - started, 1)}


def slope(samples: list[dict[str, Any]], what: str) -> dict[str, float]:
    """The rise of one quantity in a million steps, its standard error, and its least and most."""
    kept = samples[int(WARM * len(samples)) :]
    x, y = np.array([[line["steps"] / 1e6, line[what]] for line in kept]).T
    if len(kept) < 3:
        return {}
    (rise, _), covariance = np.polyfit(x, y, 1, cov=True) if np.ptp(y) else ((0.0, 0.0), np.zeros((2, 2)))
    found = {"per_million_steps": rise, "error": covariance[0, 0] ** 0.5, "least": y.min(), "most": y.max()}
    return {key: round(float(value), 3) for key, value in found.items()}


def summary(samples: list[dict[str, Any]], end: dict[str, Any], note: str) -> dict[str, Any]:
    """The last line of a case."""
    quantities = [key for key in samples[0] if key not in ("case", "steps", "seconds", "note")]
    return end | {"note": note, "samples": len(samples), "steps": samples[-1]["steps"]} | {
        what: slope(samples, what) for what in quantities
    }  # fmt: skip


def main() -> None:
    """Run the cases that are not finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/soak/soak.jsonl"))
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--samples", type=int, default=100, help="of each case")
    parser.add_argument("--note", default="", help="kept in the last line of a case")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    agents = sources(given.folder / "sources")
    for name in given.cases:
        lines = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.is_file() else []
        mine = [line for line in lines if line["case"] == name]
        if any("exit_code" in line for line in mine):
            continue
        folder = given.folder / name
        with given.out.open("a") as file:
            for line in watch(name, CASES[name], folder, agents, given.samples):
                found = line if "exit_code" not in line else summary(mine, line, given.note)
                mine.append(line)
                file.write(json.dumps(found) + "\n")
                file.flush()
            print(json.dumps(found), flush=True)
        if found["exit_code"] == 0:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
