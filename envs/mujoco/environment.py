"""MuJoCo environments, built with shifted models: Gymnasium's tasks, and any other that is registered."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import mujoco
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv

from daft_rl.envs.mujoco.model import compile_body, shift_mujoco_model
from daft_rl.envs.mujoco.rules import RULES
from daft_rl.envs.mujoco.shift import MujocoShift, RegisteredMujocoShift
from daft_rl.envs.registered import find_registered, make_with, make_with_wrappers
from daft_rl.envs.wrappers import shift_interface
from daft_rl.errors import TaskError
from daft_rl.imports import load_object

__all__ = ["has_rules", "make_mujoco", "make_registered_mujoco", "shifted_class"]


def shifted_class(base: type[MujocoEnv], body: Callable[[mujoco.MjSpec], None] | None = None) -> type[MujocoEnv]:
    """A subclass of a MuJoCo environment whose constructor also takes a ``shift``.

    :param base: derived from Gymnasium's ``MujocoEnv``; or a class of another package that makes its model in
        ``_initialize_simulation`` from the file ``fullpath``, and keeps it as ``model``, as gymnasium-robotics does
    :param body: changes the model before it is compiled, see :mod:`daft_rl.envs.mujoco.bodies`
    """

    class Shifted(base):  # type: ignore[valid-type, misc]
        def __init__(self, shift: MujocoShift, **kwargs: Any) -> None:
            self.shift = shift
            super().__init__(**kwargs)

        def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData] | None:
            made = super()._initialize_simulation()
            if not (self.shift.changes() or body):
                return made
            compiled_anew = {"limb_size", "without"} & self.shift.changes().keys()
            if made is None:  # the environment keeps its model and its first state by itself
                if compiled_anew:
                    field = ", shift.".join(sorted(compiled_anew))
                    raise TaskError(
                        f"shift.{field}: {base.__name__} makes its model in a way of its own. Leave it out."
                    )
                shift_mujoco_model(self.model, self.shift)
                return None
            model, _ = made
            if compiled_anew or body:
                offscreen = model.vis.global_.offwidth, model.vis.global_.offheight
                model = compile_body(self.fullpath, body, self.shift)
                model.vis.global_.offwidth, model.vis.global_.offheight = offscreen
            shift_mujoco_model(model, self.shift)
            return model, mujoco.MjData(model)

    Shifted.__name__ = Shifted.__qualname__ = f"Shifted{base.__name__}"
    return Shifted


def make_mujoco(base: str, shift: MujocoShift, body: str | None = None, **kwargs: Any) -> gym.Env:
    """Make a MuJoCo task: the entry point of our registrations.

    :param base: ``module:Class`` of a Gymnasium MuJoCo environment
    :param shift: what changes
    :param body: ``module:function`` that changes the model's body before it is compiled
    :param kwargs: keywords of the environment's constructor, such as ``render_mode``
    """
    cls: Any = shifted_class(load_object(base, TaskError), None if body is None else load_object(body, TaskError))
    if kwargs.get("render_mode") is not None:  # MuJoCo's default camera does not follow the robot
        kwargs.setdefault("camera_name", "track")
    return shift_interface(cls(shift=shift, **kwargs), shift)


def _registered_class(id: str) -> type[MujocoEnv] | None:
    """The class that a registration makes; ``None`` if it is no MuJoCo environment."""
    entry_point: Any = find_registered(id).entry_point
    cls = load_object(entry_point, TaskError) if isinstance(entry_point, str) else entry_point
    return cls if isinstance(cls, type) and hasattr(cls, "_initialize_simulation") else None


def has_rules(id: str) -> bool:
    """Whether threads can step a registered environment."""
    return _registered_class(id) in RULES and not find_registered(id).additional_wrappers


def make_registered_mujoco(id: str, shift: RegisteredMujocoShift, render_mode: str | None = None) -> gym.Env:
    """Make any registered MuJoCo environment with a shift, and with the time limit of its registration.

    :param id: as Gymnasium knows it; the part before a colon is imported
    :param shift: what changes
    :param render_mode: passed on unless it is ``None``
    :raises TaskError: it is no MuJoCo environment, or it cannot be made; a wrapper cannot be imported or fails
    """
    cls = _registered_class(id)
    if cls is None:
        make_with(id, {}).close()  # says why, if it cannot be made at all
        raise TaskError(
            f"'{id}' is no MuJoCo environment whose model can be shifted: its class does not derive from Gymnasium's "
            "MujocoEnv. As env='gymnasium' with the same id it takes keywords of its constructor.",
            arguments=("env",),
        )
    spec: Any = copy.copy(find_registered(id))
    spec.entry_point = shifted_class(cls)
    return make_with_wrappers(spec, shift, render_mode, {"shift": replace(shift, kwargs={}, wrappers=())})
