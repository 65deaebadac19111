"""Measure what realignment alone does to a policy, without learning, for several thresholds.

    python benchmarks/realign.py --out benchmarks/results/realign.json

A threshold (``--beyond``) is the distance in standard deviations beyond which an input is realigned. The shifts are
for development; the preset ``mujoco`` learns on none of them. Returns are means over ``--episodes`` deterministic
episodes. Realignment is repeated for ``--seeds``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from daft_rl import load_agent
from daft_rl.archives import find_agent
from daft_rl.envs import make_vec
from daft_rl.finetune.realignment import realign
from daft_rl.rollout.evaluation import evaluate
from daft_rl.run.results import machine

SHIFTS: dict[str, dict[str, Any]] = {
    "Ant": {
        "front hips (default)": "kinematic-medium",
        "gravity x 0.5": "gravity-0.5",
        "observation scale 1.5": "observation-scale-1.5",
        "observation offset 0.05, draw 0": {"observation_offset": 0.05},
        "observation offset 0.05, draw 2": {"observation_offset": 0.05, "observation_draw": 2},
    },
    "HalfCheetah": {
        "gravity x 0.5 (default)": "gravity-0.5",
        "mass x 1.5": {"mass": 1.5},
        "observation offset 0.1": "observation-offset-0.1",
        "observation offset 0.5": "observation-offset-0.5",
    },
}


def realigned_returns(
    task: str, visited: VecEnv, played: VecEnv, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Mean return after realignment, for each threshold and seed.

    :param visited: where statistics are gathered
    :param played: where returns are measured
    """
    found = []
    for beyond in arguments.beyond:
        for seed in arguments.seeds:
            model = load_agent(find_agent(task, "ppo"), visited)
            model.set_random_seed(seed)
            change = realign(model, visited, arguments.steps, seed + 1, beyond)
            result = evaluate(model, played, arguments.episodes, 10_000).mean
            found.append({"beyond": beyond, "seed": seed, "return": result, **change.as_dict()})
    return found


def line_of_table(row: dict[str, Any], thresholds: list[float]) -> str:
    """Returns of a task as a line of a Markdown table: before realignment, and with each threshold."""
    shown = []
    for beyond in thresholds:
        returns = [one["return"] for one in row["realigned"] if one["beyond"] == beyond]
        kept = sum(one["moved"] > 0 for one in row["realigned"] if one["beyond"] == beyond)
        shown.append(f"{np.mean(returns):.0f} ± {np.std(returns, ddof=1):.0f} ({kept} of {len(returns)})")
    return f"| {row['task']}: {row['shift']} | {row['source']:.0f} | {' | '.join(shown)} |"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beyond", type=float, nargs="+", default=[1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--steps", type=int, default=8192)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    cells = [(task, name, shift) for task, shifts in SHIFTS.items() for name, shift in shifts.items()]
    for task, name, shift in tqdm(cells):
        visited = make_vec(task, num_envs=16, shift=shift)
        played = make_vec(task, num_envs=arguments.episodes, shift=shift)
        source = evaluate(load_agent(find_agent(task, "ppo"), visited), played, arguments.episodes, 10_000).mean
        realigned = realigned_returns(task, visited, played, arguments)
        rows.append({"task": task, "shift": name, "source": source, "realigned": realigned})
        print(line_of_table(rows[-1], arguments.beyond), flush=True)
        visited.close()
        played.close()
    settings = {key: value for key, value in vars(arguments).items() if key != "out"}
    arguments.out.write_text(json.dumps({"settings": settings, "machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
