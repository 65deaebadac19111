"""Compare steps per second of a batch of a slow simulator in one process and in worker processes.

    python benchmarks/speed/workers.py --out benchmarks/results/speed_workers.json

Both take the same actions from the same seeds, and take turns in each round. Read the ratios, which are taken within
rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.envs import make_vec

TASKS = ("Door", "Wipe", "SafetyPointGoal")


def step_all(venv: VecEnv, actions: NDArray[np.float32]) -> float:
    """Steps per second."""
    venv.seed(0)
    venv.reset()
    started = time.perf_counter()
    for action in actions:
        venv.step(action)
    return actions.shape[0] * actions.shape[1] / (time.perf_counter() - started)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40, help="of the batch, per round")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results = {}
    for task in TASKS:
        with (
            closing(make_vec(task, arguments.num_envs, vec="dummy")) as dummy,
            closing(make_vec(task, arguments.num_envs, vec="workers")) as workers,
        ):
            size = (arguments.steps, arguments.num_envs, *(dummy.action_space.shape or ()))
            actions = np.random.default_rng(0).uniform(-1, 1, size).astype(np.float32)
            for venv in (dummy, workers):  # compiles code
                step_all(venv, actions[:5])
            rounds = [(step_all(dummy, actions), step_all(workers, actions)) for _ in range(arguments.rounds)]
        ratios = [fast / slow for slow, fast in rounds]
        results[task] = {
            "dummy_steps_per_second": round(median(slow for slow, _ in rounds)),
            "workers_steps_per_second": round(median(fast for _, fast in rounds)),
            "ratio": [round(value, 2) for value in (median(ratios), min(ratios), max(ratios))],
        }
        print(task, results[task], flush=True)
    if arguments.out is not None:
        data = {
            "command": " ".join(["python", "benchmarks/speed/workers.py", *sys.argv[1:]]),
            "num_envs": arguments.num_envs,
            "cores": os.cpu_count(),
            "ratio": "median, least, most",
            "tasks": results,
        }
        arguments.out.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
