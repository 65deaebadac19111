"""Gymnasium's MuJoCo tasks as worlds on Warp's CPU device, and the C environments beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("mujoco_warp", reason="worlds need the extra `cuda`")

from daft_rl.envs.cuda.locomotion import LocomotionBlueprint, LocomotionWorlds
from daft_rl.envs.cuda.worlds import Step
from daft_rl.envs.mujoco import MujocoShift
from daft_rl.envs.mujoco.environment import make_mujoco

TASKS = {
    "Ant": "ant_v5:AntEnv",
    "HalfCheetah": "half_cheetah_v5:HalfCheetahEnv",
    "Hopper": "hopper_v5:HopperEnv",
    "Humanoid": "humanoid_v5:HumanoidEnv",
    "Swimmer": "swimmer_v5:SwimmerEnv",
    "Walker2d": "walker2d_v5:Walker2dEnv",
}


def base(task: str) -> str:
    return f"gymnasium.envs.mujoco.{TASKS[task]}"


def blueprint(task: str, shift: dict[str, Any] | None = None, **kwargs: Any) -> LocomotionBlueprint:
    return LocomotionWorlds.blueprint(MujocoShift(**(shift or {})), base=base(task), **kwargs)


def make_worlds(*blueprints: LocomotionBlueprint, num_worlds: int | None = None, seed: int = 0) -> LocomotionWorlds:
    """A world for each blueprint, or ``num_worlds`` of them in turn."""
    order = np.arange(num_worlds or len(blueprints)) % len(blueprints)
    return LocomotionWorlds(blueprints, order, "cpu", seed)


def random_actions(worlds: LocomotionWorlds, steps: int) -> torch.Tensor:
    space: Any = worlds.action_space
    size = (steps, worlds.num_worlds, *space.shape)
    return torch.as_tensor(np.random.default_rng(7).uniform(-1, 1, size) * space.high, dtype=torch.float32)


class Twins:
    """The C environment of each world, which steps from the world's state."""

    def __init__(self, worlds: LocomotionWorlds, task: str, **kwargs: Any) -> None:
        self.worlds = worlds
        self.envs: list[Any] = []
        for index in worlds.blueprint_of_world:
            blueprint: Any = worlds.blueprints[index]
            env: Any = make_mujoco(base(task), blueprint.shift, **kwargs)
            env.reset()
            env.unwrapped.model.opt.solver = blueprint.model.opt.solver
            self.envs.append(env)
        self.start(range(worlds.num_worlds))

    def _field(self, name: str) -> NDArray[Any]:
        return self.worlds.physics.field(name).double().numpy().copy()

    def start(self, rows: Any) -> None:
        """Put environments into the states in which their worlds begin."""
        qpos, qvel = self._field("qpos"), self._field("qvel")
        for i in rows:
            self.envs[i].reset()
            self.envs[i].unwrapped.set_state(qpos[i], qvel[i])

    def step(self, action: torch.Tensor) -> tuple[Step, list[Any]]:
        """Step the worlds, and each C environment from the state of its world."""
        before = {name: self._field(name) for name in ("qpos", "qvel", "qacc_warmstart")}
        step = self.worlds.step(action)
        results = []
        for i, env in enumerate(self.envs):
            for name, values in before.items():
                getattr(env.unwrapped.data, name)[:] = values[i]
            results.append(env.step(action[i].numpy()))
        self.start(np.flatnonzero(step.done.numpy()))
        return step, results
