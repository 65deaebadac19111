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
        row: dict[str, Any] = {"task": task, "shift": name, "source": source, "realigned": []}
        for beyond in arguments.beyond:
            for seed in arguments.seeds:
                model = load_agent(find_agent(task, "ppo"), visited)
                model.set_random_seed(seed)
                found = realign(model, visited, arguments.steps, seed + 1, beyond)
                result = evaluate(model, played, arguments.episodes, 10_000).mean
                row["realigned"].append({"beyond": beyond, "seed": seed, "return": result, **found.as_dict()})
        rows.append(row)
        shown = []
        for beyond in arguments.beyond:
            returns = [one["return"] for one in row["realigned"] if one["beyond"] == beyond]
            kept = sum(one["moved"] > 0 for one in row["realigned"] if one["beyond"] == beyond)
            shown.append(f"{np.mean(returns):.0f} ± {np.std(returns, ddof=1):.0f} ({kept} of {len(returns)})")
        print(f"| {task}: {name} | {source:.0f} | {' | '.join(shown)} |", flush=True)
        visited.close()
        played.close()
    settings = {key: value for key, value in vars(arguments).items() if key != "out"}
    arguments.out.write_text(json.dumps({"settings": settings, "machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
