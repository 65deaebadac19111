"""robosuite's Door and Wipe with a Panda arm, or another one, as Gymnasium environments.

They differ from robosuite's own Gymnasium wrapper: a seed reproduces an episode, whatever came before; the end of the
time is a truncation; the observation keeps its shape under every shift but that of the arm to a UR5e.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from daft_rl.envs.robosuite.building import CONTROL_FREQUENCY, build_sim_env, shift_robosuite_model
from daft_rl.envs.robosuite.fast_step import FastStep
from daft_rl.envs.robosuite.names import action_names, observation_names
from daft_rl.envs.robosuite.shift import RobosuiteShift, check_shift_fits
from daft_rl.envs.wrappers import shift_interface
from daft_rl.errors import TaskError

__all__ = ["RobosuiteEnv", "make_robosuite"]

HANDLE_ANGLE = 13
"""Index of the handle's angle in Door's observation."""


class RobosuiteEnv(gym.Env[NDArray[Any], NDArray[Any]]):
    """A robosuite task as a Gymnasium environment, without time limit.

    The observation is robosuite's object state followed by the robot's own state, ``float32``: with a Panda 64 entries
    in Door and 55 in Wipe, with a UR5e 67 and 50. Actions in ``[-1, 1]`` move the gripper (three translations, three
    rotations; in Door a seventh entry closes it). Wipe terminates when everything is wiped, when a part of the arm
    other than the wiper touches something, and near a limit of a joint. These are robosuite's defaults.

    :param base: ``"Door"`` or ``"Wipe"``
    :param shift: what changes. This class does not apply changes of observations and actions
    :param render_mode: ``"rgb_array"`` or ``None``
    :param camera: name of the model's camera
    :param fast: step with our own code, which computes the same numbers in less time
    :raises TaskError: robosuite is missing, the shift does not fit the task, or an unknown render mode
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_FREQUENCY}

    def __init__(
        self,
        base: str,
        shift: RobosuiteShift,
        render_mode: str | None = None,
        camera: str = "frontview",
        fast: bool = True,
    ) -> None:
        check_shift_fits(base, shift)
        if render_mode not in (None, "rgb_array"):
            raise TaskError(f"render_mode: task '{base}' takes rgb_array or None, got {render_mode!r}.")
        self.base, self.shift, self.render_mode, self.camera = base, shift, render_mode, camera
        self.sim_env = build_sim_env(base, shift)
        shift_robosuite_model(self.sim_env, base, shift)
        model = self.sim_env.sim.model._model
        self._placement = {name: getattr(model, name).copy() for name in ("body_pos", "body_quat", "geom_rgba")}
        self._renderer: mujoco.Renderer | None = None

        # robosuite's objects hold references to this generator, so it serves for everything
        self.np_random = self.sim_env.rng
        self.np_random.bit_generator.state = np.random.default_rng().bit_generator.state
        self._fast = FastStep(self.sim_env) if fast else None
        size = self._flat(self._read(self.sim_env.reset())).size
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self.sim_env.action_dim,), np.float32)

    @property
    def observation_names(self) -> tuple[str, ...]:
        """Names of the entries of an observation, see :mod:`daft_rl.envs.names`."""
        names = observation_names(self.sim_env)
        return names if self.shift.latch else (*names[:HANDLE_ANGLE], "handle_qpos", *names[HANDLE_ANGLE:])

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the entries of an action."""
        return action_names(self.sim_env)

    @property
    def model(self) -> mujoco.MjModel:
        """The compiled model."""
        return self.sim_env.sim.model._model

    @property
    def data(self) -> mujoco.MjData:
        """The state of the simulation."""
        return self.sim_env.sim.data._data

    def _read(self, observations: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """Join object state and robot state of robosuite's observations, ``float64``."""
        return np.concatenate((observations["object-state"], observations["robot0_proprio-state"]))

    def _flat(self, observation: NDArray[Any]) -> NDArray[Any]:
        """The observation of a policy, ``float32``. Without latch there is no handle to turn, so its angle is 0."""
        if not self.shift.latch:
            observation = np.insert(observation, HANDLE_ANGLE, 0.0)
        return observation.astype(np.float32)

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"is_success": bool(self.sim_env._check_success())}
        if self.base == "Wipe":
            info["wiped"] = len(self.sim_env.wiped_markers) / self.sim_env.num_markers
        return info

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode. A seed always gives the same one. See :meth:`gymnasium.Env.reset`."""
        if seed is not None:
            generator = self.sim_env.rng
            super().reset(seed=seed)
            assert self._np_random is not None
            generator.bit_generator.state = self._np_random.bit_generator.state
            self._np_random = generator
        for name, values in self._placement.items():  # robosuite simulates before it moves objects to new places
            getattr(self.model, name)[:] = values
        observation = self._read(self.sim_env.reset())
        if self._fast is not None:
            observation = self._fast.start_episode()
        return self._flat(observation), self._info()

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """See :meth:`gymnasium.Env.step`. ``info`` has ``is_success`` and, in Wipe, the fraction ``wiped``."""
        action = np.array(action, np.float64)
        if self._fast is not None:
            observation, reward, terminated = self._fast.step(action)
        else:
            observations, reward, terminated, _ = self.sim_env.step(action)
            observation = self._read(observations)
        return self._flat(observation), float(reward), bool(terminated), False, self._info()

    def render(self) -> NDArray[Any] | None:  # type: ignore[override]
        """An image, shape ``(480, 640, 3)``, ``uint8``; ``None`` without ``render_mode="rgb_array"``."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self.model, 480, 640)
        visible = mujoco.MjvOption()
        visible.geomgroup[0] = 0  # hide collision shapes, which cover the visual ones
        self._renderer.update_scene(self.data, self.camera, visible)
        return self._renderer.render()

    def close(self) -> None:
        """Free the renderer and the simulation."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        if self.sim_env.sim is not None:
            self.sim_env.close()


def make_robosuite(
    base: str, shift: RobosuiteShift, render_mode: str | None = None, robot: str | None = None, **kwargs: Any
) -> gym.Env:
    """Make a robosuite task: the entry point of our registrations.

    :param base: ``"Door"`` or ``"Wipe"``
    :param shift: what changes
    :param render_mode: ``"rgb_array"`` or ``None``
    :param robot: the arm of this task, unless the shift names another one
    :param kwargs: further keywords of :class:`RobosuiteEnv`
    """
    if robot is not None and "robot" not in shift.changes():
        shift = replace(shift, robot=robot)  # type: ignore[arg-type]
    return shift_interface(RobosuiteEnv(base, shift, render_mode=render_mode, **kwargs), shift)
