"""Compare steps per second of robosuite and Safety-Gymnasium with those of our own code for the same environments.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/speed/simulators.py --out benchmarks/results/speed_simulators.json

Both give the same numbers (tests/envs/test_robosuite.py, tests/envs/test_safety.py). They take turns in each round, so
that other programs slow both alike. Read the ratios, which are taken within rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np

from daft_rl.envs.robosuite import RobosuiteShift
from daft_rl.envs.robosuite.environment import RobosuiteEnv
from daft_rl.envs.safety.environment import SafetyEnv
from daft_rl.envs.safety.package import get_blueprint
from daft_rl.run.results import machine

TASKS = {
    "Door": lambda fast: RobosuiteEnv("Door", RobosuiteShift(), fast=fast),
    "Wipe": lambda fast: RobosuiteEnv("Wipe", RobosuiteShift(), fast=fast),
    "SafetyPointGoal": lambda fast: SafetyEnv(get_blueprint("SafetyPointGoal1-v0"), fast=fast),
    "SafetyCarGoal": lambda fast: SafetyEnv(get_blueprint("SafetyCarGoal1-v0"), fast=fast),
}


def step_one(env: gym.Env[Any, Any], steps: int, seed: int) -> tuple[float, float]:
    """Steps per second with random actions, and seconds of the reset before them."""
    started = time.perf_counter()
    env.reset(seed=seed)
    reset = time.perf_counter() - started
    rng = np.random.default_rng(seed)
    shape = env.action_space.shape
    spent = 0.0
    for _ in range(steps):
        action = rng.uniform(-1, 1, shape)
        started = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(action)
        spent += time.perf_counter() - started
        if terminated or truncated:
            env.reset()
    return steps / spent, reset


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    for name, build in TASKS.items():
        plain, ours = build(False), build(True)
        for env in (plain, ours):  # compiles code and reads files
            step_one(env, 20, 0)
        rounds = [
            (step_one(plain, arguments.steps, i), step_one(ours, arguments.steps, i)) for i in range(arguments.rounds)
        ]
        ratios = [fast[0] / slow[0] for slow, fast in rounds]
        results[name] = {
            "plain_steps_per_second": round(median(slow[0] for slow, _ in rounds)),
            "ours_steps_per_second": round(median(fast[0] for _, fast in rounds)),
            "ratio": [round(value, 2) for value in (median(ratios), min(ratios), max(ratios))],
            "ours_reset_seconds": round(median(fast[1] for _, fast in rounds), 4),
        }
        print(name, results[name])
    if arguments.out is not None:
        command = " ".join(["OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/speed/simulators.py", *sys.argv[1:]])
        data = {"command": command, "machine": machine(), "ratio": "median, least, most", "tasks": results}
        arguments.out.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
