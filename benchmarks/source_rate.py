"""PPO's own settings against those with which the source learnt: rl-zoo's agents under gravity x 0.8.

    python -m benchmarks.source_rate FOLDER --steps 50000 --agents ppo/HalfCheetah-v3.zip --arms 3e-4 "source's rate"

``FOLDER`` is that of :mod:`benchmarks.public_agents`. Each run is a line of
``benchmarks/results/source_rate.jsonl``; what stands there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import warnings
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.public_agents import AGENTS, SEEDS, SMALL, PublicAgent
from benchmarks.public_grid import SHIFTS, shifted
from daft_rl import transfer
from daft_rl.archives import read_archive

RESULTS = Path(__file__).parent / "results" / "source_rate.jsonl"
RATE = {"algo.settings.learning_rate": None, "algo.most_learning_rate": None}
OWN = RATE | {"algo.settings.batch_size": None}
CONSTANT = {"name": "constant"}
"""A method whose rates do not decay. The agents have no BatchNorm."""
ARMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "3e-4": ("auto", {"algo.settings.learning_rate": 3e-4}),
    "source's rate": ("auto", RATE),
    "source's rate, constant": (CONSTANT, RATE),
    "source's rate, batch and rollout": ("auto", OWN),
    "source's rate, batch and rollout, constant": (CONSTANT, OWN),
    "source's rate, batch and rollout, constant, exploration": (CONSTANT, OWN | {"algo.exploration_std": None}),
}
"""Method and settings."""
SHIFT = "gravity-0.8"


def adapt(folder: Path, agent: PublicAgent, steps: int, seed: int, arm: str) -> dict[str, Any]:
    """Mean returns before, after and halfway."""
    method, given = ARMS[arm]
    settings = SMALL | {"evaluation.every": steps // 2, "evaluation.episodes": 8} | given
    if "rollout" in arm:
        own = read_archive(folder / agent.archive)
        steps_together = own.hyperparameters["n_steps"] * own.attributes["n_envs"]
        settings["algo.settings.n_steps"] = steps_together // SMALL["num_envs"]
    with TemporaryDirectory() as run:
        result = transfer(
            partial(shifted, agent, SHIFTS[agent.task][SHIFT]),
            method=method,
            source=folder / agent.archive,
            source_env=agent.make(),
            total_timesteps=steps,
            seed=seed,
            output_dir=run,
            settings=settings,
        )
    return {
        "before": {role: returns.mean for role, returns in result.zero_shot.items()},
        "halfway": result.curve[1]["target"],
        "after": {role: returns.mean for role, returns in result.final.items()},
    }


def main() -> None:
    """Run what has not been run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--agents", nargs="+", required=True)
    parser.add_argument("--arms", nargs="+", required=True, choices=ARMS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    done = [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()] if RESULTS.exists() else []
    chosen = [agent for agent in AGENTS if agent.archive in given.agents]
    for seed, agent, arm in product(SEEDS, chosen, given.arms):
        cell = {"agent": agent.archive, "steps": given.steps, "seed": seed, "arm": arm}
        if any(cell.items() <= line.items() for line in done):
            continue
        line = cell | adapt(given.folder, agent, given.steps, seed, arm)
        with RESULTS.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
        print(line, flush=True)


if __name__ == "__main__":
    main()
