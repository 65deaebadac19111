"""Agents that others have trained: what they return, and whether a transfer by ``daft`` does them harm.

    python -m benchmarks.public_agents zero-shot FOLDER --out zero_shot.json
    python -m benchmarks.public_agents transfers FOLDER --out transfers.jsonl

``FOLDER`` holds ``ALGORITHM-TASK/TASK.zip`` of rl-trained-agents, with ``vecnormalize.pkl`` beside it where there is
one. What stands in ``--out`` already is not run again. Tasks of the old MuJoCo bindings (v3) are played in v4, whose
observations and rewards are the same. Box2D's tasks are left out where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
from sb3_contrib.common.wrappers import TimeFeatureWrapper

from daft_rl import transfer

SEEDS = (0, 1, 2)
EPISODES = 50
KEPT = ("seed", "method", "algo", "timesteps", "zero_shot", "final", "curve", "worse_than_zero_shot")
SMALL = {"vec": "dummy", "num_envs": 8, "progress_bar": False}


@dataclass(frozen=True)
class PublicAgent:
    """An archive, its task, and what rl-zoo's benchmark says of it."""

    archive: str
    task: str
    published: tuple[float, float] | None
    """Mean return and standard deviation; ``None`` if its table does not have the agent."""
    shift: tuple[str, float] | None = None
    """A field of the shifted task and a factor on it; ``None`` is in no transfer."""
    steps: int = 50_000
    sees_time: bool = False
    """Whether its last observation is the time that is left, which rl-zoo adds by a wrapper."""

    def make(self, shift: tuple[str, float] | None = None) -> Callable[[], gym.Env[Any, Any]]:
        """A function that makes the task, with one number of its physics multiplied."""

        def build() -> gym.Env[Any, Any]:
            env = gym.make(self.task)
            if shift is not None:
                name, factor = shift
                place: Any = env.unwrapped
                place = place.model.opt if hasattr(place, "model") else place
                setattr(place, name, getattr(place, name) * factor)
            return TimeFeatureWrapper(env) if self.sees_time else env

        return build


AGENTS = (
    PublicAgent("a2c/HalfCheetah-v3.zip", "HalfCheetah-v4", (3041.2, 157.3), ("gravity", 0.8)),
    PublicAgent("a2c-Hopper-v3/Hopper-v3.zip", "Hopper-v4", (733.5, 376.6), ("gravity", 0.8)),
    PublicAgent("a2c-Walker2d-v3/Walker2d-v3.zip", "Walker2d-v4", None, ("gravity", 0.8)),
    PublicAgent("dqn-CartPole-v1/CartPole-v1.zip", "CartPole-v1", (500.0, 0.0), ("force_mag", 0.3), 20_000),
    PublicAgent("ppo/HalfCheetah-v3.zip", "HalfCheetah-v4", (5819.1, 663.5), ("gravity", 0.8)),
    PublicAgent("ppo-BipedalWalker-v3/BipedalWalker-v3.zip", "BipedalWalker-v3", (213.3, 129.5)),
    PublicAgent("ppo-Hopper-v3/Hopper-v3.zip", "Hopper-v4", (2410.4, 10.0), ("gravity", 0.8)),
    PublicAgent("ppo-LunarLanderContinuous-v2/LunarLanderContinuous-v2.zip", "LunarLanderContinuous-v3", (270.9, 32.1)),
    PublicAgent("ppo-Pendulum-v1/Pendulum-v1.zip", "Pendulum-v1", (-172.2, 104.2), ("g", 1.4)),
    PublicAgent("ppo-Swimmer-v3/Swimmer-v3.zip", "Swimmer-v4", (281.6, 9.7), ("viscosity", 1.5), sees_time=True),
    PublicAgent("sac/HalfCheetah-v3.zip", "HalfCheetah-v4", (9535.5, 100.5)),
    PublicAgent("sac-Hopper-v3/Hopper-v3.zip", "Hopper-v4", (2325.5, 1129.7)),
    PublicAgent("sac-Pendulum-v1/Pendulum-v1.zip", "Pendulum-v1", (-157.0, 88.7), ("g", 1.4), 10_000),
    PublicAgent("tqc-Hopper-v3/Hopper-v3.zip", "Hopper-v4", (3754.2, 8.3)),
    PublicAgent("tqc-Pendulum-v1/Pendulum-v1.zip", "Pendulum-v1", None),
    PublicAgent("trpo-Hopper-v3/Hopper-v3.zip", "Hopper-v4", (3618.4, 356.8), ("gravity", 0.8)),
    PublicAgent("trpo-Swimmer-v3/Swimmer-v3.zip", "Swimmer-v4", (365.7, 2.1), ("viscosity", 1.5)),
)


def play(folder: Path, agent: PublicAgent) -> dict[str, Any]:
    """Returns of an agent on its own task."""
    with TemporaryDirectory() as run:
        result = transfer(
            agent.make(),
            method="zero_shot",
            source=folder / agent.archive,
            output_dir=run,
            settings=SMALL | {"evaluation.episodes": EPISODES, "calibration.steps": 256, "calibration.held_out": 64},
        )
    returns = result.zero_shot["target"]
    return {
        "agent": agent.archive,
        "task": agent.task,
        "published": agent.published,
        "mean": returns.mean,
        "std": returns.std,
    }


def adapt(folder: Path, agent: PublicAgent, seed: int) -> dict[str, Any]:
    """A transfer by ``daft`` with the default settings."""
    with TemporaryDirectory() as run:
        result = transfer(
            agent.make(agent.shift),
            "daft",
            source=folder / agent.archive,
            source_env=agent.make(),
            total_timesteps=agent.steps,
            seed=seed,
            output_dir=run,
            settings=SMALL | {"evaluation.every": agent.steps // 3},
        )
    kept = {name: value for name, value in result.as_dict().items() if name in KEPT}
    return {"agent": agent.archive, "task": agent.task, "shift": agent.shift, "steps": agent.steps} | kept


def work(what: str, folder: Path) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """What there is to do: its name, and how."""
    if what == "zero-shot":
        for agent in AGENTS:
            yield {"agent": agent.archive}, partial(play, folder, agent)
        return
    for seed in SEEDS:
        for agent in AGENTS:
            if agent.shift is not None:
                yield {"agent": agent.archive, "seed": seed}, partial(adapt, folder, agent, seed)


def is_installed(agent: PublicAgent) -> bool:
    """Whether the agent's task can be made here."""
    try:
        agent.make()().close()
    except gym.error.DependencyNotInstalled as error:
        print(f"{agent.archive}: {error}")
        return False
    return True


def main() -> None:
    """Do what has not been done, one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["zero-shot", "transfers"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--agents", nargs="*", help="only archives whose path contains one of these")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    done = [json.loads(line) for line in given.out.read_text("utf-8").splitlines()] if given.out.exists() else []
    playable = {agent.archive for agent in AGENTS if is_installed(agent)}
    for name, run in work(given.what, given.folder):
        chosen = given.agents is None or any(part in name["agent"] for part in given.agents)
        if chosen and name["agent"] in playable and not any(name.items() <= line.items() for line in done):
            line = run()
            with given.out.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(line) + "\n")
            print({key: line[key] for key in line if key not in ("curve", "zero_shot", "final")}, flush=True)


if __name__ == "__main__":
    main()
