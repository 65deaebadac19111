"""What a source learnt with against what we would choose: rl-zoo's agents under shifts that no other benchmark has.

    python -m benchmarks.own_settings FOLDER --agents ppo-Hopper-v3/Hopper-v3.zip --shift gear=0.85 --arms default sb3

``FOLDER`` is that of :mod:`benchmarks.public_agents`. Each run is a line of ``benchmarks/results/own_settings.jsonl``;
what stands there already is not run again. Of the shifts there, gravity x 0.8 is in :mod:`benchmarks.public_grid` too.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.public_agents import AGENTS, SEEDS, SMALL, PublicAgent
from benchmarks.public_grid import sb3_continue, shifted, steps_of
from daft_rl import transfer
from daft_rl.archives import read_archive

RESULTS = Path(__file__).parent / "results" / "own_settings.jsonl"
EPISODES = 8
CONSTANT = {"name": "constant"}
"""A method whose rates do not decay. The agents have no BatchNorm."""
RATE = {"algo.settings.learning_rate": None, "algo.most_learning_rate": None}
SOON = {"algo.settings.learning_starts": 100}


@dataclass(frozen=True)
class Arm:
    """A way to fine-tune."""

    settings: dict[str, Any] = field(default_factory=dict)
    method: Any = "auto"
    rollout: bool = False
    """Whether minibatches and rollouts have the source's sizes."""
    scaled: bool = False
    """Whether the source's rate rises with the square root of the batch (arXiv 2006.09092)."""


ARMS = {
    "default": Arm(),
    "3e-4": Arm({"algo.settings.learning_rate": 3e-4}),
    "rate": Arm(RATE),
    "rate, constant": Arm(RATE, CONSTANT),
    "rate, scaled": Arm(scaled=True),
    "rate, scaled, constant": Arm(method=CONSTANT, scaled=True),
    "rate, rollout": Arm(RATE, rollout=True),
    "rate, rollout, constant": Arm(RATE, CONSTANT, rollout=True),
    "rate, rollout, constant, exploration": Arm(RATE | {"algo.exploration_std": None}, CONSTANT, rollout=True),
    "rate, rollout, one environment": Arm(RATE | {"num_envs": 1}, rollout=True),
    "rate, rollout, one environment, constant": Arm(RATE | {"num_envs": 1}, CONSTANT, rollout=True),
    "rate, rollout, one environment, constant, exploration": Arm(
        RATE | {"num_envs": 1, "algo.exploration_std": None}, CONSTANT, rollout=True
    ),
    "rate, one environment": Arm(RATE | {"num_envs": 1}),
    "rate, exploration anew": Arm(RATE | {"algo.settings.exploration_initial_eps": 1.0}),
    "1e-4": Arm({"algo.settings.learning_rate": 1e-4}),
    "1e-4, one environment": Arm({"algo.settings.learning_rate": 1e-4, "num_envs": 1}),
    "after 5000 steps": Arm({"algo.settings.learning_starts": 5000, "algo.most_learning_rate": 3e-4}),
    "soon": Arm(SOON | {"algo.most_learning_rate": 3e-4}),
    "soon, rate": Arm(SOON | RATE),
}
"""What is the source's own. ``sb3`` is ``sb3_continue`` of the public grid."""


def adapt(
    folder: Path, agent: PublicAgent, factors: dict[str, float], steps: int, seed: int, name: str
) -> dict[str, Any]:
    """Mean returns before, halfway and after."""
    if name == "sb3":
        played = sb3_continue(folder, agent, factors, seed, steps)["final"]
        return {"after": {role: sum(returns) / len(returns) for role, returns in played.items()}}
    arm, own = ARMS[name], read_archive(folder / agent.archive)
    settings = SMALL | {"evaluation.every": steps // 4, "evaluation.episodes": EPISODES} | arm.settings
    if arm.rollout:
        steps_together = own.hyperparameters["n_steps"] * own.attributes["n_envs"]
        settings["algo.settings.n_steps"] = steps_together // settings["num_envs"]
        settings["algo.settings.batch_size"] = None
    if arm.scaled:
        rate, batch = own.hyperparameters["learning_rate"], own.hyperparameters["batch_size"]
        settings["algo.settings.learning_rate"] = (rate(1.0) if callable(rate) else rate) * (256 / batch) ** 0.5
    with TemporaryDirectory() as run:
        result = transfer(
            partial(shifted, agent, factors),
            method=arm.method,
            source=folder / agent.archive,
            source_env=agent.make(),
            total_timesteps=steps,
            seed=seed,
            output_dir=run,
            settings=settings,
        )
    return {
        "before": {role: returns.mean for role, returns in result.zero_shot.items()},
        "halfway": result.curve[2]["target"],
        "after": {role: returns.mean for role, returns in result.final.items()},
    }


def main() -> None:
    """Run what has not been run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--agents", nargs="+", required=True)
    parser.add_argument("--shift", required=True, help="factors on numbers of the simulator: gravity=1.25,mass=2")
    parser.add_argument("--arms", nargs="+", required=True, choices=["sb3", *ARMS])
    parser.add_argument("--steps", type=int, help="the public grid's")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    factors = {name: float(factor) for name, factor in (one.split("=") for one in given.shift.split(","))}
    done = [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()] if RESULTS.exists() else []
    chosen = [agent for agent in AGENTS if agent.archive in given.agents]
    for seed, agent, arm in product(SEEDS, chosen, given.arms):
        steps = given.steps or steps_of(agent)
        cell = {"agent": agent.archive, "shift": given.shift, "steps": steps, "seed": seed, "arm": arm}
        if any(cell.items() <= line.items() for line in done):
            continue
        line = cell | adapt(given.folder, agent, factors, steps, seed, arm)
        with RESULTS.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
        print(line, flush=True)


if __name__ == "__main__":
    main()
