"""Gymnasium's MuJoCo tasks (v5), built with shifted models."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv

from daft_rl.envs.mujoco.model import compile_with_limb_sizes, shift_mujoco_model
from daft_rl.envs.mujoco.shift import MujocoShift
from daft_rl.envs.wrappers import shift_interface
from daft_rl.errors import TaskError
from daft_rl.imports import load_object

__all__ = ["make_mujoco", "shifted_class"]


def shifted_class(base: type[MujocoEnv]) -> type[MujocoEnv]:
    """A subclass of a Gymnasium MuJoCo environment whose constructor also takes a ``shift``."""

    class Shifted(base):  # type: ignore[valid-type, misc]
        def __init__(self, shift: MujocoShift, **kwargs: Any) -> None:
            self.shift = shift
            super().__init__(**kwargs)

        def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
            model, data = super()._initialize_simulation()
            if not self.shift.changes():
                return model, data
            if self.shift.limb_size != 1.0:
                offscreen = model.vis.global_.offwidth, model.vis.global_.offheight
                model = compile_with_limb_sizes(self.fullpath, self.shift.limb_size)
                model.vis.global_.offwidth, model.vis.global_.offheight = offscreen
            shift_mujoco_model(model, self.shift)
            return model, mujoco.MjData(model)

    Shifted.__name__ = Shifted.__qualname__ = f"Shifted{base.__name__}"
    return Shifted


def make_mujoco(base: str, shift: MujocoShift, **kwargs: Any) -> gym.Env:
    """Make a MuJoCo task: the entry point of our registrations.

    :param base: ``module:Class`` of a Gymnasium MuJoCo environment
    :param shift: what changes
    :param kwargs: keywords of the environment's constructor, such as ``render_mode``
    """
    cls: Any = shifted_class(load_object(base, TaskError))
    if kwargs.get("render_mode") is not None:  # MuJoCo's default camera does not follow the robot
        kwargs.setdefault("camera_name", "track")
    return shift_interface(cls(shift=shift, **kwargs), shift)
