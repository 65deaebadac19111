"""Observations and rewards of Gymnasium's MuJoCo tasks (v5), computed at once for a batch of environments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv
from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv
from numpy.typing import NDArray

from daft_rl.errors import TaskError

__all__ = ["BATCHED_TASKS", "ArrayTable", "BatchedTask"]


class ArrayTable:
    """Arrays of every environment, copied into the rows of one table by one call.

    :param views: for each environment, the same arrays of its model or data. ``mj_resetData`` keeps them valid
    :raises TaskError: the arrays' sizes differ between environments
    """

    def __init__(self, views: Iterable[Sequence[NDArray[Any]]]) -> None:
        rows = list(views)
        if len({tuple(view.size for view in row) for row in rows}) != 1:
            raise TaskError("Environments of one batch need models of the same size: bodies, joints, actuators.")
        self._views = [view.reshape(-1) for row in rows for view in row]
        edges = np.cumsum([0] + [view.size for view in rows[0]])
        self.whole = np.empty((len(rows), edges[-1]))
        self.columns = [self.whole[:, start:stop] for start, stop in pairwise(edges)]
        self._flat = self.whole.reshape(-1)

    def read(self) -> None:
        """Update ``whole``, shape ``(num_envs, sum of sizes)``, and ``columns``, each of shape ``(num_envs, size)``."""
        np.concatenate(self._views, out=self._flat)


def within(values: NDArray[Any], limits: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Whether values lie strictly between two limits."""
    low, high = limits
    return (low < values) & (values < high)


# Constructor arguments of the tasks, stored under these names with a leading underscore. No task has all of them.
PARAMETERS = (
    "forward_reward_weight",
    "ctrl_cost_weight",
    "contact_cost_weight",
    "contact_cost_range",
    "contact_force_range",
    "healthy_reward",
    "healthy_z_range",
    "healthy_angle_range",
    "healthy_state_range",
    "terminate_when_unhealthy",
)


StepResults = tuple[NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]


class BatchedTask:
    """What a Gymnasium class computes after the physics, for all environments at once. Defaults are HalfCheetah's.

    Methods read the state of the simulation, ``self.arrays.qpos`` of shape ``(num_envs, size)``, and the arguments of
    Gymnasium's constructor, ``self.parameters.healthy_reward`` of shape ``(num_envs,)``, or ``(2, num_envs)`` for a
    range.

    :param envs: environments of one class
    """

    fields: tuple[str, ...] = ("qpos", "qvel")
    """The arrays of ``MjData`` in ``self.arrays``. ``self.arrays.state`` is the first two, joined."""
    terms: tuple[str, ...] = ("forward", "ctrl")
    """The methods that compute the terms of the reward, in the order in which ``info`` lists them."""

    def __init__(self, envs: Sequence[MujocoEnv]) -> None:
        self.first: Any = envs[0]
        self.dt = np.array([[env.dt] for env in envs])
        self.initial_z = np.array([env.init_qpos[1] for env in envs])
        values = {name: [getattr(env, f"_{name}", None) for env in envs] for name in PARAMETERS}
        self.parameters = SimpleNamespace(**{name: np.array(value).T for name, value in values.items()})
        self.may_end = self.parameters.terminate_when_unhealthy.astype(bool)
        self.is_healthy = np.ones(len(envs), dtype=bool)
        self.position_table = ArrayTable(self.position_arrays(env) for env in envs)
        self.table = ArrayTable([getattr(env.data, name) for name in self.fields] for env in envs)
        self.arrays = SimpleNamespace(**dict(zip(self.fields, self.table.columns, strict=True)))
        self.arrays.state = self.table.whole[:, : sum(column.shape[1] for column in self.table.columns[:2])]

    def position_arrays(self, env: MujocoEnv) -> list[NDArray[Any]]:
        """The arrays from which :meth:`position` is computed."""
        return [env.data.qpos[:1]]

    def position(self) -> NDArray[Any]:
        """The position whose change is the velocity: x, or x and y, shape ``(num_envs, 1 or 2)``."""
        self.position_table.read()
        return self.position_table.whole.copy()

    def read(self) -> None:
        """Update ``self.arrays``."""
        self.table.read()

    def finish_step(self, action: NDArray[Any], before: NDArray[Any]) -> StepResults:
        """Compute what a step returns, after the physics.

        :param action: what the simulator was given, shape ``(num_envs, action size)``
        :param before: :meth:`position` before the physics
        :return: observations, rewards, terminations, and ``info`` as name -> one value for each environment
        """
        self.action, self.velocity = action, (self.position() - before) / self.dt
        self.read()
        self.is_healthy = self.healthy()
        terms = {name: getattr(self, name)() for name in self.terms}
        info = self.info() | {f"reward_{name}": terms[name] for name in terms}
        return self.observation(), self.reward(**terms), ~self.is_healthy & self.may_end, info

    def observation(self) -> NDArray[Any]:
        """A new array, ``(num_envs, observation size)``."""
        hidden = self.first.observation_structure["skipped_qpos"]
        return np.concatenate([self.arrays.qpos[:, hidden:], self.arrays.qvel, *self.extras()], axis=1)

    def extras(self) -> list[NDArray[Any]]:
        """Parts of the observation besides positions and velocities."""
        return []

    def healthy(self) -> NDArray[Any]:
        return self.is_healthy

    def info(self) -> dict[str, Any]:
        """The entries of ``info`` that are not rewards."""
        return {"x_position": self.arrays.qpos[:, 0], "x_velocity": self.velocity[:, 0]}

    def forward(self) -> NDArray[Any]:
        return self.parameters.forward_reward_weight * self.velocity[:, 0]

    def survive(self) -> NDArray[Any]:
        return self.is_healthy * self.parameters.healthy_reward

    def ctrl(self) -> NDArray[Any]:
        effort = np.square(self.action).sum(axis=1)
        # Gymnasium multiplies a Python number by a float32 scalar: float64 in NumPy 1, float32 in NumPy 2.
        dtype = (self.first._ctrl_cost_weight * effort[0]).dtype
        return -np.multiply(self.parameters.ctrl_cost_weight, effort, dtype=dtype)

    def reward(
        self, forward: NDArray[Any], ctrl: NDArray[Any], survive: Any = None, contact: Any = None
    ) -> NDArray[Any]:
        """The sum in Gymnasium's order. Adding negative costs gives the same bits as subtracting costs."""
        gain = forward if survive is None else forward + survive
        return gain + (ctrl if contact is None else ctrl + contact)


class BatchedHalfCheetah(BatchedTask):
    """HalfCheetah: all defaults."""


class BatchedPlanarTask(BatchedTask):
    """A task whose position has two coordinates, x and y."""

    def position_arrays(self, env: MujocoEnv) -> list[NDArray[Any]]:
        return [env.data.qpos[:2]]

    def info(self) -> dict[str, Any]:
        position = self.arrays.qpos[:, :2]
        return {
            "x_position": position[:, 0],
            "y_position": position[:, 1],
            # for each row, matmul calls the BLAS routine that numpy.linalg.norm calls for a vector
            "distance_from_origin": np.sqrt(np.matmul(position[:, None, :], position[:, :, None])[:, 0, 0]),
            "x_velocity": self.velocity[:, 0],
            "y_velocity": self.velocity[:, 1],
        }


class BatchedSwimmer(BatchedPlanarTask):
    """Swimmer: the planar defaults."""


class BatchedWalker2d(BatchedTask):
    """Walker2d: the robot must keep its height and angle."""

    terms = ("forward", "ctrl", "survive")

    def observation(self) -> NDArray[Any]:
        hidden = self.first.observation_structure["skipped_qpos"]
        return np.concatenate([self.arrays.qpos[:, hidden:], np.clip(self.arrays.qvel, -10, 10)], axis=1)

    def healthy(self) -> NDArray[Any]:
        z, angle = self.arrays.qpos[:, 1], self.arrays.qpos[:, 2]
        return within(z, self.parameters.healthy_z_range) & within(angle, self.parameters.healthy_angle_range)

    def info(self) -> dict[str, Any]:
        x, z = self.arrays.qpos[:, 0], self.arrays.qpos[:, 1]
        return {"x_position": x, "z_distance_from_origin": z - self.initial_z, "x_velocity": self.velocity[:, 0]}


class BatchedHopper(BatchedWalker2d):
    """Hopper: as Walker2d, and the whole state must stay within limits."""

    def healthy(self) -> NDArray[Any]:
        state = within(self.arrays.state[:, 2:], self.parameters.healthy_state_range[..., None])
        return super().healthy() & state.all(axis=1)


class BatchedAnt(BatchedPlanarTask):
    """Ant: contact forces are observed and cost."""

    fields = ("qpos", "qvel", "cfrc_ext")
    terms = ("forward", "ctrl", "contact", "survive")

    def position_arrays(self, env: Any) -> list[NDArray[Any]]:
        return [env.data.body(env._main_body).xpos[:2]]

    def read(self) -> None:
        super().read()
        low, high = self.parameters.contact_force_range[..., None]
        np.clip(self.arrays.cfrc_ext, low, high, out=self.arrays.cfrc_ext)

    def extras(self) -> list[NDArray[Any]]:
        return (
            [self.arrays.cfrc_ext[:, 6:]] if self.first._include_cfrc_ext_in_observation else []
        )  # without the world body

    def healthy(self) -> NDArray[Any]:
        z, (low, high) = self.arrays.qpos[:, 2], self.parameters.healthy_z_range
        return np.isfinite(self.arrays.state).all(axis=1) & (low <= z) & (z <= high)

    def contact(self) -> NDArray[Any]:
        return -(self.parameters.contact_cost_weight * np.square(self.arrays.cfrc_ext).sum(axis=1))


class BatchedHumanoid(BatchedPlanarTask):
    """Humanoid: velocities are those of the centre of mass."""

    fields = ("qpos", "qvel", "cinert", "cvel", "qfrc_actuator", "cfrc_ext", "ctrl", "ten_length", "ten_velocity")
    terms = ("survive", "forward", "ctrl", "contact")
    optional = {"cinert": 10, "cvel": 6, "qfrc_actuator": 6, "cfrc_ext": 6}
    """Optional parts of the observation, and how many leading values they leave out (world body or root joint)."""

    def position_arrays(self, env: Any) -> list[NDArray[Any]]:
        return [env.model.body_mass, env.data.xipos]

    def position(self) -> NDArray[Any]:
        self.position_table.read()
        mass, centers = self.position_table.columns
        moment = np.einsum("nb,nbj->nj", mass, centers.reshape(*mass.shape, 3))
        return (moment / mass.sum(axis=1, keepdims=True))[:, :2]

    def extras(self) -> list[NDArray[Any]]:
        included = [name for name in self.optional if getattr(self.first, f"_include_{name}_in_observation") is True]
        return [getattr(self.arrays, name)[:, self.optional[name] :] for name in included]

    def healthy(self) -> NDArray[Any]:
        return within(self.arrays.qpos[:, 2], self.parameters.healthy_z_range)

    def info(self) -> dict[str, Any]:
        motion = super().info()
        position = {name: motion.pop(name) for name in ("x_position", "y_position")}
        tendons = {"tendon_length": self.arrays.ten_length.copy(), "tendon_velocity": self.arrays.ten_velocity.copy()}
        return position | tendons | motion

    def ctrl(self) -> NDArray[Any]:
        # the simulator's own control, which is zero after an unstable state
        return -(self.parameters.ctrl_cost_weight * np.square(self.arrays.ctrl).sum(axis=1))

    def contact(self) -> NDArray[Any]:
        cost = self.parameters.contact_cost_weight * np.square(self.arrays.cfrc_ext).sum(axis=1)
        return -np.clip(cost, *self.parameters.contact_cost_range)


BATCHED_TASKS: dict[type[MujocoEnv], type[BatchedTask]] = {
    AntEnv: BatchedAnt,
    HalfCheetahEnv: BatchedHalfCheetah,
    HopperEnv: BatchedHopper,
    HumanoidEnv: BatchedHumanoid,
    SwimmerEnv: BatchedSwimmer,
    Walker2dEnv: BatchedWalker2d,
}
