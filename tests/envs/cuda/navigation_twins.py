"""Drive Safety-Gymnasium's environments and, at every step, worlds from the same states."""

from __future__ import annotations

import pickle
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("mujoco_warp", reason="worlds need the extra `cuda`")

from daft_rl.envs.cuda.navigation import NavigationBlueprint, NavigationWorlds
from daft_rl.envs.safety.environment import make_safety
from daft_rl.envs.safety.shift import SafetyShift

POINT, CAR = "SafetyPointGoal1-v0", "SafetyCarGoal1-v0"


def blueprint(base: str = POINT, **shift: Any) -> NavigationBlueprint:
    """What is left of a blueprint after pickling."""
    return pickle.loads(pickle.dumps(NavigationWorlds.blueprint(SafetyShift(**shift), base)))


def build(*blueprints: NavigationBlueprint, each: int = 1, seed: int = 0) -> NavigationWorlds:
    """Worlds of blueprints, not reset yet."""
    return NavigationWorlds(blueprints, np.repeat(np.arange(len(blueprints)), each), "cpu", seed)


def pose(task: Any) -> tuple[NDArray[Any], float]:
    """Where the package's agent is, and its angle about the vertical axis."""
    return task.agent.pos[:2], float(np.arctan2(task.agent.mat[1, 0], task.agent.mat[0, 0]))


def turn(angle: float) -> NDArray[Any]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def face(env: Any, name: str, distance: float) -> None:
    """Put the package's agent so far from the centre of an object, with its front towards it."""
    task, data = env.task, env.task.data
    place, angle = data.body(name).xpos[:2].copy(), 0.3
    place -= distance * turn(angle)[:, 0]
    if is_point(task):
        start, start_angle = task.model.body("agent").pos[:2], pose(task)[1] - data.qpos[2]
        data.qpos[:2] = turn(start_angle).T @ (place - start)
        data.qpos[2] = angle - start_angle
    else:  # its front is -y
        data.qpos[:2] = place
        data.qpos[3:7] = [np.cos((angle + np.pi / 2) / 2), 0.0, 0.0, np.sin((angle + np.pi / 2) / 2)]
    data.qvel[:] = 0.0
    mujoco.mj_forward(task.model, data)
    task.last_dist_goal = task.dist_goal()


def is_point(task: Any) -> bool:
    return type(task.agent).__name__ == "Point"


def copy_state(env: Any, worlds: NavigationWorlds, world: int) -> None:
    """Put a world into the state of an environment of the package."""
    task, data = env.task, env.task.data
    state = {name: getattr(data, name).copy() for name in ("qpos", "qvel", "qacc_warmstart")}
    if is_point(task):  # the package turns its slides at each reset
        place, angle = pose(task)
        start_angle = angle - data.qpos[2]
        state["qpos"][:3] = [*place, angle]
        for name in ("qvel", "qacc_warmstart"):
            state[name][:2] = turn(start_angle) @ state[name][:2]
    for name, values in state.items():
        worlds.physics.field(name)[world] = torch.as_tensor(values, dtype=torch.float32)
    obstacles = [place for kind in ("hazards", "vases") if hasattr(task, kind) for place in getattr(task, kind).pos]
    places = torch.as_tensor(np.array([task.agent.pos, task.goal.pos, *obstacles])[:, :2], dtype=torch.float32)
    worlds.places[world, : len(places)] = places
    worlds.goal_distance[world] = task.last_dist_goal


APPROACHES = {"goal": 0.32, "hazard0": 0.22, "vase0": 0.3}
"""Objects, and distances from which the agent drives to them, metres."""
FORWARD = {"Point": (1.0, 0.1), "Car": (1.0, 0.9)}


def compare(base: str, approaches: dict[str, float], steps: int, *shifts: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Drive the package's environments and, at every step, worlds from the same states.

    :return: absolute differences of observations and rewards, costs of both, and whether a goal was reached; arrays of
        steps x (shifts x approaches)
    """
    cases = [(shift, name) for shift in shifts for name in approaches]
    envs: list[Any] = [make_safety(base, SafetyShift(**shift)).unwrapped for shift, _ in cases]
    for i, (env, (_, name)) in enumerate(zip(envs, cases, strict=True)):
        env.reset(seed=i)
        for _ in range(3):  # Car falls onto its wheels
            env.step(np.zeros(2))
        face(env, name, approaches[name])
    worlds = build(*(blueprint(base, **shift) for shift in shifts), each=len(approaches))
    action = np.array(FORWARD[type(envs[0].task.agent).__name__])
    goal = [i for i, name in enumerate(parts(base)) if name == "goal_lidar"]
    rows: dict[str, list[Any]] = {name: [] for name in ("observation", "reward", "cost", "expected_cost", "reached")}
    for _ in range(steps):
        for i, env in enumerate(envs):
            copy_state(env, worlds, i)
        expected, rewards, _, _, infos = zip(*(env.step(action) for env in envs), strict=True)
        tensor = torch.as_tensor(np.tile(action, (len(envs), 1)), dtype=torch.float32)
        observation, reward, terminated, extras = worlds.move(tensor)
        assert not terminated.any()
        reached = np.array(["goal_met" in info for info in infos])
        difference = np.abs(observation.numpy() - np.array(expected))
        difference[np.ix_(reached, np.array(goal))] = 0.0  # the new goal is random
        rows["observation"].append(difference)
        rows["reward"].append(np.abs(reward.numpy() - rewards))
        rows["cost"].append(extras["cost"].numpy())
        rows["expected_cost"].append([info["cost"] for info in infos])
        rows["reached"].append(reached)
    return {name: np.array(values) for name, values in rows.items()}


def parts(base: str) -> list[str]:
    """The part of an observation that each entry belongs to."""
    sensors = ["accelerometer", "velocimeter", "gyro", "magnetometer"]
    names = [name for name in sensors for _ in range(3)]
    if "Car" in base:
        names += ["ballangvel_rear"] * 3 + ["ballquat_rear"] * 9
    return names + [f"{kind}_lidar" for kind in ("goal", "hazards", "vases") for _ in range(16)]
