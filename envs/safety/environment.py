"""Safety-Gymnasium's tasks as ordinary Gymnasium environments, with the cost in ``info``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from daft_rl.envs.mujoco.names import actuator_names
from daft_rl.envs.names import indexed
from daft_rl.envs.safety.changes import hazard_changer, model_changer
from daft_rl.envs.safety.fast_step import speed_up
from daft_rl.envs.safety.package import Blueprint, get_blueprint
from daft_rl.envs.safety.shift import SafetyShift
from daft_rl.envs.wrappers import shift_interface
from daft_rl.errors import TaskError
from daft_rl.imports import load_object

__all__ = ["SafetyEnv", "make_safety"]


class SafetyEnv(gym.Env[NDArray[Any], NDArray[Any]]):
    """An environment of Safety-Gymnasium with Gymnasium's interface.

    ``info`` has ``cost`` (of the step), ``episode_cost`` (the sum so far), and the package's own entries.

    :param blueprint: how the package makes the environment
    :param change_model: changes a compiled model, in place. Each reset compiles a new one and calls this
    :param change_task: changes the package's task object before its first reset
    :param render_mode: ``"rgb_array"`` or ``None``
    :param fast: compute the same numbers in less time; ``False`` keeps the package's own methods
    :raises TaskError: the render mode does not exist
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(
        self,
        blueprint: Blueprint,
        change_model: Callable[[mujoco.MjModel], None] | None = None,
        change_task: Callable[[Any], None] | None = None,
        render_mode: str | None = None,
        fast: bool = True,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise TaskError(f"render_mode: Safety-Gymnasium's tasks take rgb_array or None, got {render_mode!r}.")
        state = np.random.get_state()  # the package draws its first seed from the global generator
        self._env: Any = load_object(blueprint.entry_point)(**blueprint.kwargs)
        np.random.set_state(state)
        self.render_mode = render_mode
        self._renderer: mujoco.Renderer | None = None
        self.observation_space, self.action_space = self._env.observation_space, self._env.action_space
        self._episode_cost = 0.0
        if change_task is not None:
            change_task(self.task)
        if change_model is not None:
            self._change_every_model(change_model)
        if fast and hasattr(self.task, "agent"):
            speed_up(self.task)

    def _change_every_model(self, change_model: Callable[[mujoco.MjModel], None]) -> None:
        if hasattr(self.task, "agent"):
            self.task.agent.change_model = change_model  # the package compiles a new model at every reset
        else:
            change_model(self.model)

    @property
    def task(self) -> Any:
        """The package's task object, or the environment itself if it has none."""
        return getattr(self._env, "task", self._env)

    def generators(self) -> dict[str, Any]:
        """Everything that draws random numbers here."""
        of_task = getattr(getattr(self.task, "random_generator", None), "random_generator", None)
        return {"own": self._np_random, "task": of_task, "inner": getattr(self._env, "_np_random", None)}

    @property
    def observation_names(self) -> Any:
        """Names of the entries of an observation: its sensors and lidars with the place in each, ``goal_lidar[3]``."""
        parts = getattr(getattr(self.task, "obs_info", None), "obs_space_dict", None)
        if parts is None or not isinstance(self.observation_space, spaces.Box):
            raise TaskError(f"The entries of {type(self.task).__name__} have no known names.")
        return [entry for name, part in parts.spaces.items() for entry in indexed(name, spaces.flatdim(part))]

    @property
    def action_names(self) -> list[str]:
        """Names of the entries of an action: the joints that are driven. The package has no model before a reset."""
        if self._np_random is None:
            self.reset()
        return actuator_names(self.model)

    @property
    def model(self) -> mujoco.MjModel:
        """The current model. A reset compiles a new one."""
        return self.task.model

    @property
    def data(self) -> mujoco.MjData:
        """The state of the current model."""
        return self.task.data

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode; see :meth:`gymnasium.Env.reset`."""
        fresh = self._np_random is None
        super().reset(seed=seed)
        self.close()  # the renderer belongs to the old model
        if seed is None and fresh:
            seed = int(self.np_random.integers(2**31))
        self._episode_cost = 0.0
        observation, info = self._env.reset(seed=seed, options=options)
        return observation, {**info, "cost": 0.0, "episode_cost": 0.0}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Take a step; see :meth:`gymnasium.Env.step`."""
        observation, reward, cost, terminated, truncated, info = self._env.step(np.asarray(action))
        self._episode_cost += float(cost)
        info = {**info, "cost": float(cost), "episode_cost": self._episode_cost}
        return observation, float(reward), bool(terminated), bool(truncated), info

    def render(self) -> NDArray[Any] | None:  # type: ignore[override]
        """An image from above, shape ``(480, 480, 3)``, ``uint8``; ``None`` without ``render_mode="rgb_array"``.

        The package's own renderer needs an older Gymnasium.
        """
        if self.render_mode is None:
            return None
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self.model, 480, 480)
        view = mujoco.MjvCamera()
        view.distance, view.elevation, view.azimuth = 6.0, -60.0, 90.0
        view.lookat[:] = 0.0
        visible = mujoco.MjvOption()
        visible.geomgroup[:] = 1  # by default, MuJoCo hides the groups of goals and hazards
        self._renderer.update_scene(self.data, view, visible)
        return self._renderer.render()

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def make_safety(base: str, shift: SafetyShift, render_mode: str | None = None) -> gym.Env:
    """Make a Safety-Gymnasium task: the entry point of our registrations.

    :param base: an id of the package, for instance ``SafetyPointGoal1-v0``
    :param shift: what changes
    :param render_mode: ``"rgb_array"`` or ``None``
    :raises TaskError: the package is not installed, it has no such task, or the task lacks what the shift changes
    """
    blueprint = get_blueprint(base)
    if shift.level is not None:
        id_of_level, levels = re.subn(r"\d(?=(Vision)?-v\d+$)", str(shift.level), base)
        if not levels:
            raise TaskError(f"shift.level={shift.level}: {base} has no levels.")
        blueprint = get_blueprint(id_of_level)
    return shift_interface(SafetyEnv(blueprint, model_changer(shift), hazard_changer(shift), render_mode), shift)
