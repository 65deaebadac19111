"""Goal tasks on Warp: the numbers of Safety-Gymnasium from the same states, shifts per world, costs, episodes."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from daft_rl.envs.cuda.navigation import NavigationBlueprint, NavigationWorlds
from daft_rl.envs.safety.environment import make_safety
from daft_rl.envs.safety.shift import SafetyShift
from daft_rl.errors import TaskError

POINT, CAR = "SafetyPointGoal1-v0", "SafetyCarGoal1-v0"


def blueprint(base: str = POINT, **shift: Any) -> NavigationBlueprint:
    """Without what the host knows beside the blueprint."""
    return pickle.loads(pickle.dumps(NavigationWorlds.blueprint(SafetyShift(**shift), base)))


def build(*blueprints: NavigationBlueprint, each: int = 1, seed: int = 0) -> NavigationWorlds:
    worlds = NavigationWorlds(blueprints, np.repeat(np.arange(len(blueprints)), each), "cpu", seed)
    worlds.reset()
    return worlds


def copy_state(env: Any, worlds: NavigationWorlds, world: int) -> None:
    """Put a world into the state of an environment of the package."""
    task, data = env.task, env.task.data
    qpos, qvel, warmstart = data.qpos.copy(), data.qvel.copy(), data.qacc_warmstart.copy()
    rotation = task.agent.mat
    if type(task.agent).__name__ == "Point":  # the package turns its slides at each reset
        start = np.zeros(9)
        _to_matrix(start, env.model.body("agent").quat)
        qpos[:2] = task.agent.pos[:2]
        qpos[2] = np.arctan2(rotation[1, 0], rotation[0, 0])
        for vector in (qvel, warmstart):
            vector[:2] = start.reshape(3, 3)[:2, :2] @ vector[:2]
    for name, values in {"qpos": qpos, "qvel": qvel, "qacc_warmstart": warmstart}.items():
        worlds.physics.field(name)[world] = torch.as_tensor(values, dtype=torch.float32)
    objects = [task.agent.pos, task.goal.pos, *getattr(task, "hazards", _NONE).pos, *getattr(task, "vases", _NONE).pos]
    places = torch.as_tensor(np.array(objects)[:, :2], dtype=torch.float32)
    worlds.places[world, : len(places)] = places
    worlds.goal_distance[world] = task.last_dist_goal


class _NONE:
    pos: tuple[()] = ()


def _to_matrix(matrix: NDArray[Any], quat: NDArray[Any]) -> None:
    import mujoco

    mujoco.mju_quat2Mat(matrix, quat)


def towards_goal(env: Any, rng: np.random.Generator) -> NDArray[Any]:
    """Drive to the goal, with some noise."""
    task = env.task
    ahead = (task.goal.pos - task.agent.pos) @ task.agent.mat
    if type(task.agent).__name__ == "Point":
        wish = np.array([1.0, 2.0 * np.arctan2(ahead[1], ahead[0])])
    else:  # its front is -y
        angle = np.arctan2(ahead[0], -ahead[1])
        wish = np.array([1.0 - angle, 1.0 + angle])
    return np.clip(wish + rng.normal(0, 0.3, 2), -1, 1)


def compare(base: str, shifts: list[dict[str, Any]], steps: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Play the package's environments and, at every step, worlds from the same states.

    :return: differences of observations and rewards, costs of both, and whether goals were reached; steps x worlds
    """
    envs: list[Any] = [make_safety(base, SafetyShift(**shift)).unwrapped for shift in shifts]
    worlds = build(*(blueprint(base, **shift) for shift in shifts))
    rng = np.random.default_rng(seed)
    for i, env in enumerate(envs):
        env.reset(seed=seed + i)
    first = sum(not name.endswith("lidar") for name in worlds.task.observed)
    rows: dict[str, list[Any]] = {name: [] for name in ("observation", "reward", "cost", "expected_cost", "reached")}
    for _ in range(steps):
        for i, env in enumerate(envs):
            copy_state(env, worlds, i)
        actions = np.array([towards_goal(env, rng) for env in envs], dtype=np.float32)
        steps_of_c = [env.step(action) for env, action in zip(envs, actions, strict=True)]
        observation, reward, terminated, extras = worlds.move(torch.as_tensor(actions))
        assert not terminated.any()
        expected = np.array([step[0] for step in steps_of_c])
        reached = np.array([bool(step[4].get("goal_met")) for step in steps_of_c])
        difference = np.abs(observation.numpy() - expected)
        start = int(worlds._rules.goal_lidar)
        difference[reached, start : start + 16] = 0.0  # the new goal is random
        rows["observation"].append(difference)
        rows["reward"].append(np.abs(reward.numpy() - [step[1] for step in steps_of_c]))
        rows["cost"].append(extras["cost"].numpy())
        rows["expected_cost"].append([step[4]["cost"] for step in steps_of_c])
        rows["reached"].append(reached)
    assert first
    return {name: np.array(values) for name, values in rows.items()}
