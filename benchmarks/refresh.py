"""Measure what new BatchNorm statistics alone do to a policy, without learning.

    python benchmarks/refresh.py --task HalfCheetah --out benchmarks/results/refresh_HalfCheetah.json

For each shift the source policy visits states of the target. Then its BatchNorm layers keep the source's statistics
(``source``), take those of the target (``refreshed``, as training-mode BatchNorm and AdaBN do), or are converted to
them (``converted``). On the unshifted task, the script also refreshes one layer of the actor at a time. Returns are
means over ``--episodes`` deterministic episodes. The calibration is repeated for ``--seeds``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO

from daft_rl.archives import find_agent
from daft_rl.envs import make_vec
from daft_rl.policy.anatomy import Anatomy
from daft_rl.rollout.evaluation import evaluate, visit

SHIFTS: dict[str, Any] = {
    "no shift": "none",
    "gravity x 0.5": "gravity-0.5",
    "gravity x 2": "gravity-2.0",
    "friction x 0.5": "friction-0.5",
    "observation offset, sd 0.5": "observation-offset-0.5",
    "observation scale 1.5": "observation-scale-1.5",
}


def play(task: str, shift: Any, what: str, steps: int, episodes: int, seed: int, layer: str | None = None) -> float:
    """Mean return after one treatment of the statistics."""
    model = PPO.load(find_agent(task, "ppo"))
    model.set_random_seed(seed)
    anatomy = Anatomy(model.policy)
    if what != "source":
        venv = make_vec(task, num_envs=16, shift=shift)
        measured = anatomy.measure(anatomy.batches(*visit(model, venv, steps, seed)))
        if layer is not None:
            measured = {layer: measured[layer]}
        anatomy.apply(measured, preserve_function=what == "converted")
        venv.close()
    venv = make_vec(task, num_envs=episodes, shift=shift)
    result = evaluate(model, venv, episodes, seed=10_000)
    venv.close()
    return result.mean


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="HalfCheetah")
    parser.add_argument("--steps", type=int, default=8192)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    fixed = (arguments.steps, arguments.episodes)
    rows = []
    for name, shift in SHIFTS.items():
        row: dict[str, Any] = {"shift": name, "source": play(arguments.task, shift, "source", *fixed, 0)}
        for what in ("refreshed", "converted"):
            row[what] = [play(arguments.task, shift, what, *fixed, seed) for seed in arguments.seeds]
        rows.append(row)
        spread = {
            what: f"{np.mean(row[what]):.0f} ± {np.std(row[what], ddof=1):.0f}" for what in ("refreshed", "converted")
        }
        print(f"| {name} | {row['source']:.0f} | {spread['refreshed']} | {spread['converted']} |", flush=True)
    anatomy = Anatomy(PPO.load(find_agent(arguments.task, "ppo")).policy)
    layers = [name for name in anatomy.batchnorm_modules() if "vf_" not in name]
    single = {
        layer: [play(arguments.task, "none", "refreshed", *fixed, seed, layer) for seed in arguments.seeds]
        for layer in layers
    }
    for layer, returns in single.items():
        print(f"| {layer} | {np.mean(returns):.0f} ± {np.std(returns, ddof=1):.0f} |")
    settings = {key: str(value) for key, value in vars(arguments).items()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({"settings": settings, "rows": rows, "one_layer_no_shift": single}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
