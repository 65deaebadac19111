"""What Gymnasium's MuJoCo tasks observe and pay, stated once for a whole batch of environments."""

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

from daft_rl.errors import TaskError

__all__ = ["RULES", "Rule", "Table"]


class Table:
    """A few arrays of every environment, copied into the rows of one table by one call.

    :param views: per environment the same few arrays of its model or data; ``mj_resetData`` keeps them valid
    """

    def __init__(self, views: Iterable[Sequence[np.ndarray]]) -> None:
        rows = list(views)
        if len({tuple(view.size for view in row) for row in rows}) != 1:
            raise TaskError("Environments of one batch need models of the same size: bodies, joints, actuators.")
        self._views = [view.reshape(-1) for row in rows for view in row]
        edges = np.cumsum([0] + [view.size for view in rows[0]])
        self.whole = np.empty((len(rows), edges[-1]))
        self.columns = [self.whole[:, start:stop] for start, stop in pairwise(edges)]
        self._flat = self.whole.reshape(-1)

    def read(self) -> None:
        """Bring ``whole``, ``(num_envs, sum of sizes)``, and ``columns``, each ``(num_envs, size)``, up to date."""
        np.concatenate(self._views, out=self._flat)


def within(values: np.ndarray, limits: Sequence[np.ndarray]) -> np.ndarray:
    """Strictly between the two limits."""
    low, high = limits
    return (low < values) & (values < high)


# What the tasks' constructors store under these names with a leading underscore; not every task has them all.
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


class Rule:
    """What a Gymnasium class does after the physics, for all environments at once. This one is HalfCheetah's.

    Subclasses say how their task differs. As in Gymnasium, methods read the state of the simulation and the
    constructor's numbers: ``self.now.qpos``, shape ``(num_envs, size)``, and ``self.of.healthy_reward``, shape
    ``(num_envs,)``, or ``(2, num_envs)`` for a range.

    :param envs: environments of one class
    """

    fields: tuple[str, ...] = ("qpos", "qvel")
    """The arrays of ``MjData`` in ``self.now``; the first two together are ``self.now.state``."""
    terms: tuple[str, ...] = ("forward", "ctrl")
    """The methods that give the parts of the reward, in the order in which ``info`` lists them."""

    def __init__(self, envs: Sequence[MujocoEnv]) -> None:
        self.first: Any = envs[0]
        self.dt = np.array([[env.dt] for env in envs])
        self.initial_z = np.array([env.init_qpos[1] for env in envs])
        values = {name: [getattr(env, f"_{name}", None) for env in envs] for name in PARAMETERS}
        self.of = SimpleNamespace(**{name: np.array(value).T for name, value in values.items()})
        self.may_end = self.of.terminate_when_unhealthy.astype(bool)
        self.is_healthy = np.ones(len(envs), dtype=bool)
        self.tracked = Table(self.track(env) for env in envs)
        self.table = Table([getattr(env.data, name) for name in self.fields] for env in envs)
        self.now = SimpleNamespace(**dict(zip(self.fields, self.table.columns, strict=True)))
        self.now.state = self.table.whole[:, : sum(column.shape[1] for column in self.table.columns[:2])]

    def track(self, env: MujocoEnv) -> list[np.ndarray]:
        """The arrays behind :meth:`position`."""
        return [env.data.qpos[:1]]

    def position(self) -> np.ndarray:
        """What velocities are measured of: x, or x and y, shape ``(num_envs, 1 or 2)``."""
        self.tracked.read()
        return self.tracked.whole.copy()

    def read(self) -> None:
        """Bring ``self.now`` up to date."""
        self.table.read()

    def evaluate(self, action: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
        """
        :param action: what the simulator was given, shape ``(num_envs, action size)``
        :param before: :meth:`position` before the physics
        :return: observations, rewards, terminations, and ``info`` as name -> one value per environment
        """
        self.action, self.velocity = action, (self.position() - before) / self.dt
        self.read()
        self.is_healthy = self.healthy()
        terms = {name: getattr(self, name)() for name in self.terms}
        info = self.info() | {f"reward_{name}": terms[name] for name in terms}
        return self.observation(), self.reward(**terms), ~self.is_healthy & self.may_end, info

    def observation(self) -> np.ndarray:
        """A new array, ``(num_envs, observation size)``."""
        hidden = self.first.observation_structure["skipped_qpos"]
        return np.concatenate([self.now.qpos[:, hidden:], self.now.qvel, *self.extras()], axis=1)

    def extras(self) -> list[np.ndarray]:
        """What observations contain besides positions and velocities."""
        return []

    def healthy(self) -> np.ndarray:
        return self.is_healthy

    def info(self) -> dict[str, Any]:
        """The part of ``info`` that is not reward."""
        return {"x_position": self.now.qpos[:, 0], "x_velocity": self.velocity[:, 0]}

    def forward(self) -> np.ndarray:
        return self.of.forward_reward_weight * self.velocity[:, 0]

    def survive(self) -> np.ndarray:
        return self.is_healthy * self.of.healthy_reward

    def ctrl(self) -> np.ndarray:
        effort = np.square(self.action).sum(axis=1)
        # Gymnasium multiplies a Python number by a float32 scalar: float64 in NumPy 1, float32 in NumPy 2.
        dtype = (self.first._ctrl_cost_weight * effort[0]).dtype
        return -np.multiply(self.of.ctrl_cost_weight, effort, dtype=dtype)

    def reward(self, forward: np.ndarray, ctrl: np.ndarray, survive: Any = None, contact: Any = None) -> np.ndarray:
        """The sum in Gymnasium's order. It subtracts costs where we add negative ones: the same bits."""
        gain = forward if survive is None else forward + survive
        return gain + (ctrl if contact is None else ctrl + contact)


class SwimmerRule(Rule):
    def track(self, env: MujocoEnv) -> list[np.ndarray]:
        return [env.data.qpos[:2]]

    def info(self) -> dict[str, Any]:
        position = self.now.qpos[:, :2]
        return {
            "x_position": position[:, 0],
            "y_position": position[:, 1],
            # matmul calls, row by row, the BLAS routine that numpy.linalg.norm calls for a vector
            "distance_from_origin": np.sqrt(np.matmul(position[:, None, :], position[:, :, None])[:, 0, 0]),
            "x_velocity": self.velocity[:, 0],
            "y_velocity": self.velocity[:, 1],
        }


class Walker2dRule(Rule):
    terms = ("forward", "ctrl", "survive")

    def observation(self) -> np.ndarray:
        hidden = self.first.observation_structure["skipped_qpos"]
        return np.concatenate([self.now.qpos[:, hidden:], np.clip(self.now.qvel, -10, 10)], axis=1)

    def healthy(self) -> np.ndarray:
        z, angle = self.now.qpos[:, 1], self.now.qpos[:, 2]
        return within(z, self.of.healthy_z_range) & within(angle, self.of.healthy_angle_range)

    def info(self) -> dict[str, Any]:
        x, z = self.now.qpos[:, 0], self.now.qpos[:, 1]
        return {"x_position": x, "z_distance_from_origin": z - self.initial_z, "x_velocity": self.velocity[:, 0]}


class HopperRule(Walker2dRule):
    def healthy(self) -> np.ndarray:
        state = within(self.now.state[:, 2:], self.of.healthy_state_range[..., None])
        return super().healthy() & state.all(axis=1)


class AntRule(SwimmerRule):
    fields = ("qpos", "qvel", "cfrc_ext")
    terms = ("forward", "ctrl", "contact", "survive")

    def track(self, env: Any) -> list[np.ndarray]:
        return [env.data.body(env._main_body).xpos[:2]]

    def read(self) -> None:
        super().read()
        low, high = self.of.contact_force_range[..., None]
        np.clip(self.now.cfrc_ext, low, high, out=self.now.cfrc_ext)

    def extras(self) -> list[np.ndarray]:
        return [self.now.cfrc_ext[:, 6:]] if self.first._include_cfrc_ext_in_observation else []  # not the world's

    def healthy(self) -> np.ndarray:
        z, (low, high) = self.now.qpos[:, 2], self.of.healthy_z_range
        return np.isfinite(self.now.state).all(axis=1) & (low <= z) & (z <= high)

    def contact(self) -> np.ndarray:
        return -(self.of.contact_cost_weight * np.square(self.now.cfrc_ext).sum(axis=1))


class HumanoidRule(SwimmerRule):
    fields = ("qpos", "qvel", "cinert", "cvel", "qfrc_actuator", "cfrc_ext", "ctrl", "ten_length", "ten_velocity")
    terms = ("survive", "forward", "ctrl", "contact")
    optional = {"cinert": 10, "cvel": 6, "qfrc_actuator": 6, "cfrc_ext": 6}
    """What the observation may include, less so many leading values (the world's, or the root joint's)."""

    def track(self, env: Any) -> list[np.ndarray]:
        return [env.model.body_mass, env.data.xipos]

    def position(self) -> np.ndarray:
        self.tracked.read()
        mass, centers = self.tracked.columns
        moment = np.einsum("nb,nbj->nj", mass, centers.reshape(*mass.shape, 3))
        return (moment / mass.sum(axis=1, keepdims=True))[:, :2]

    def extras(self) -> list[np.ndarray]:
        included = [name for name in self.optional if getattr(self.first, f"_include_{name}_in_observation") is True]
        return [getattr(self.now, name)[:, self.optional[name] :] for name in included]

    def healthy(self) -> np.ndarray:
        return within(self.now.qpos[:, 2], self.of.healthy_z_range)

    def info(self) -> dict[str, Any]:
        motion = super().info()
        position = {name: motion.pop(name) for name in ("x_position", "y_position")}
        tendons = {"tendon_length": self.now.ten_length.copy(), "tendon_velocity": self.now.ten_velocity.copy()}
        return position | tendons | motion

    def ctrl(self) -> np.ndarray:
        # of the simulator, where it is zero after an unstable state
        return -(self.of.ctrl_cost_weight * np.square(self.now.ctrl).sum(axis=1))

    def contact(self) -> np.ndarray:
        cost = self.of.contact_cost_weight * np.square(self.now.cfrc_ext).sum(axis=1)
        return -np.clip(cost, *self.of.contact_cost_range)


RULES: dict[type[MujocoEnv], type[Rule]] = {
    AntEnv: AntRule,
    HalfCheetahEnv: Rule,
    HopperEnv: HopperRule,
    HumanoidEnv: HumanoidRule,
    SwimmerEnv: SwimmerRule,
    Walker2dEnv: Walker2dRule,
}
