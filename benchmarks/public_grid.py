"""Agents that others have trained, each moved to three shifts by several methods.

    python -m benchmarks.public_grid FOLDER --out grid.jsonl --methods sb3_continue daft ft

``FOLDER`` is that of :mod:`benchmarks.public_agents`. ``sb3_continue`` is what people do without this project: load the
agent with its ``VecNormalize``, and go on learning with Stable-Baselines3 and the settings of the file. ``sb3_best``
ends with the best policy of an ``EvalCallback``. What stands in ``--out`` already is not run again.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import mujoco
from sb3_contrib.common.wrappers import TimeFeatureWrapper
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize

from benchmarks.public_agents import AGENTS, SEEDS, SMALL, PublicAgent, is_installed
from daft_rl import load_agent, transfer
from daft_rl.archives import read_archive
from daft_rl.envs.mujoco.model import scale_model
from daft_rl.rollout.evaluation import evaluate
from daft_rl.run.snapshot import PolicyCopy

EPISODES = 8
FIRST_SEED = 10_000
"""Of the evaluation's episodes."""

LOCOMOTION = {"gravity-0.8": {"gravity": 0.8}, "mass-1.3": {"mass": 1.3}, "gear-0.75": {"gear": 0.75}}
SHIFTS: dict[str, dict[str, dict[str, float]]] = {
    "HalfCheetah-v4": LOCOMOTION,
    "Hopper-v4": LOCOMOTION,
    "Walker2d-v4": LOCOMOTION,
    "Swimmer-v4": {"viscosity-1.5": {"viscosity": 1.5}, "mass-1.3": {"mass": 1.3}, "gear-0.75": {"gear": 0.75}},
    "Pendulum-v1": {"g-1.4": {"g": 1.4}, "m-1.3": {"m": 1.3}, "l-1.2": {"l": 1.2}},
    "LunarLanderContinuous-v3": {
        "gravity-0.6": {"gravity": 0.6},
        "gravity-1.2": {"gravity": 1.2},
        "wind": {"wind_power": 1.0},  # as strong as the task has it; it is off at first
    },
    "CartPole-v1": {"force-0.3": {"force_mag": 0.3}, "length-3": {"polemass_length": 3.0}, "g-2": {"gravity": 2.0}},
}
"""Task -> name of a shift -> factors on numbers of the simulator."""

STEPS = {
    "sac-Pendulum-v1/Pendulum-v1.zip": 6_000,
    "tqc-Pendulum-v1/Pendulum-v1.zip": 6_000,
    "sac/HalfCheetah-v3.zip": 10_000,
    "sac-Hopper-v3/Hopper-v3.zip": 10_000,
    "tqc-Hopper-v3/Hopper-v3.zip": 10_000,
}
"""Target steps where they are not 20 000, by archive."""


def shifted(agent: PublicAgent, factors: Mapping[str, float]) -> gym.Env[Any, Any]:
    """The agent's task with some of its numbers multiplied."""
    env = gym.make(agent.task)
    task: Any = env.unwrapped
    if hasattr(task, "model"):
        model: mujoco.MjModel = task.model
        scale_model(model, mass=factors.get("mass", 1.0), gear=factors.get("gear", 1.0))
        model.opt.gravity[:] *= factors.get("gravity", 1.0)
        model.opt.viscosity *= factors.get("viscosity", 1.0)
    else:
        for name, factor in factors.items():
            setattr(task, name, getattr(task, name) * factor)
        if "wind_power" in factors:
            task.enable_wind = True
        if "polemass_length" in factors:
            task.length *= factors["polemass_length"]
    return TimeFeatureWrapper(env) if agent.sees_time else env


def steps_of(agent: PublicAgent) -> int:
    """Target steps of a transfer: some hundredths of what the agents were trained with."""
    return STEPS.get(agent.archive, 20_000)


def adapt(folder: Path, agent: PublicAgent, shift: str, seed: int, method: str) -> dict[str, Any]:
    """A transfer by one of our methods with the default settings."""
    make = partial(shifted, agent, SHIFTS[agent.task][shift])
    with TemporaryDirectory() as run:
        result = transfer(
            make,
            method=method,
            source=folder / agent.archive,
            source_env=agent.make(),
            total_timesteps=steps_of(agent),
            seed=seed,
            output_dir=run,
            settings=SMALL | {"evaluation.every": steps_of(agent) // 4, "evaluation.episodes": EPISODES},
        )
    found = result.as_dict()
    return {
        name: {role: returns["returns"] for role, returns in found[name].items()} for name in ("zero_shot", "final")
    } | {"curve": found["curve"], "race": found.get("race")}


def sb3_continue(
    folder: Path, agent: PublicAgent, factors: Mapping[str, float], seed: int, steps: int, best: bool = False
) -> dict[str, Any]:
    """Load and learn, with as many environments and the settings that the file has.

    Learning rates begin anew with the run. Off-policy agents act by their policy from the first step. ``VecNormalize``
    goes on, and scales rewards as rl-zoo's training does, whatever its file says (rl-zoo saves some after evaluation).

    :param best: whether it ends with the best policy of four evaluations on the way, by SB3's ``EvalCallback``
    """
    make = partial(shifted, agent, factors)
    archive = folder / agent.archive
    num_envs = read_archive(archive).attributes.get("n_envs") or 1
    venv = VecMonitor(DummyVecEnv([make] * num_envs))
    model = load_agent(archive, env=venv, seed=seed)
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        normalizer.training = normalizer.norm_reward = True
    if isinstance(model, OffPolicyAlgorithm):
        model.learning_starts = 0
    model.set_random_seed(seed)
    keep = KeepBest()
    every = steps // num_envs // 4
    watch = EvalCallback(evaluation_env(make, normalizer), keep, eval_freq=every, verbose=0, warn=False)
    model.learn(steps, callback=watch if best else None)
    if best:
        keep.best.put_in_place()
    if normalizer is not None:
        normalizer.training = False
    domains: dict[str, Callable[[], gym.Env[Any, Any]]] = {"target": make, "source": agent.make()}
    played = {
        role: evaluate(model, DummyVecEnv([one] * 8), EPISODES, FIRST_SEED).returns for role, one in domains.items()
    }
    return {"final": played}


class KeepBest(BaseCallback):
    """Called for each new best policy: keeps it, with the statistics of its ``VecNormalize``."""

    best: PolicyCopy

    def _on_step(self) -> bool:
        self.best = PolicyCopy(self.model)
        return True


def evaluation_env(make: Callable[[], gym.Env[Any, Any]], normalizer: VecNormalize | None) -> VecEnv:
    """The target for ``EvalCallback``, which gives a ``VecNormalize`` the statistics of the one that learns."""
    venv = VecMonitor(DummyVecEnv([make] * 5))
    return venv if normalizer is None else VecNormalize(venv, training=False, norm_reward=False)


def cells(methods: list[str]) -> Iterator[dict[str, Any]]:
    """Of the grid, by name."""
    for seed, agent, method in product(SEEDS, AGENTS, methods):
        for shift in SHIFTS.get(agent.task, ()):
            yield {"agent": agent.archive, "task": agent.task, "shift": shift, "seed": seed, "method": method}


def main() -> None:
    """Do what has not been done, one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--agents", nargs="*", help="only archives whose path contains one of these")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    done = [json.loads(line) for line in given.out.read_text("utf-8").splitlines()] if given.out.exists() else []
    agents = {agent.archive: agent for agent in AGENTS if is_installed(agent)}
    for cell in cells(given.methods):
        chosen = given.agents is None or any(part in cell["agent"] for part in given.agents)
        if not chosen or cell["agent"] not in agents or any(cell.items() <= line.items() for line in done):
            continue
        agent, shift, seed = agents[cell["agent"]], cell["shift"], cell["seed"]
        run: Callable[[], dict[str, Any]] = partial(adapt, given.folder, agent, shift, seed, cell["method"])
        if cell["method"] in ("sb3_continue", "sb3_best"):
            task = SHIFTS[agent.task][shift], seed, steps_of(agent), cell["method"] == "sb3_best"
            run = partial(sb3_continue, given.folder, agent, *task)
        line = cell | {"steps": steps_of(agent)} | run()
        with given.out.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
        print(cell, {role: round(sum(one) / len(one), 1) for role, one in line["final"].items()}, flush=True)


if __name__ == "__main__":
    main()
