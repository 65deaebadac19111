"""What Gymnasium's MuJoCo tasks (v5) compute after the physics, once for a whole batch: observations and rewards.

The same rules serve arrays of NumPy, where every number has the bits that Gymnasium computes, and tensors of PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

__all__ = ["RULES", "Array", "Outcome", "TaskArguments", "TaskRules"]

Array = Any
"""An array of NumPy or a tensor. The rules use what both have in common."""

# Constructor arguments of the tasks, stored under these names with a leading underscore. No task has all of them.
ARGUMENTS = (
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


@dataclass(frozen=True)
class TaskArguments:
    """What the rules read from one environment."""

    values: dict[str, Any]
    """Arguments of Gymnasium's constructor by name."""
    dt: float
    """Seconds of one step."""
    initial_z: float
    hidden: int
    """Number of leading positions that are not observed."""
    included: tuple[str, ...]
    """Optional parts of the observation."""
    main_body: int
    """The body whose position counts, for tasks that let the user choose."""


@dataclass(frozen=True)
class Outcome:
    """What a step returns, with one entry or row for each environment."""

    observation: Array
    reward: Array
    terminated: Array
    terms: dict[str, Array]
    """The terms of the reward, in the order in which ``info`` lists them."""


def within(values: Array, limits: Array) -> Array:
    """Whether values lie strictly between two limits."""
    low, high = limits
    return (low < values) & (values < high)


class TaskRules:
    """What a Gymnasium class computes after the physics. Defaults are HalfCheetah's.

    Methods take the state of the simulation: ``state.qpos`` of shape ``(num_envs, size)`` and likewise the other
    ``fields``, ``state.action``, and ``state.velocity``, the change of :meth:`position` per second. Arguments of
    Gymnasium's constructor are ``self.arguments.healthy_reward`` of shape ``(num_envs,)``, or ``(2, num_envs)`` for a
    range.

    :param arguments: for each environment
    :param xp: the module ``numpy`` or ``torch``
    :param stack: turns values, one for each environment, into an array
    """

    fields: tuple[str, ...] = ("qpos", "qvel")
    """The arrays of ``MjData`` that the rules read."""
    terms: tuple[str, ...] = ("forward", "ctrl")
    """The methods that compute the terms of the reward, in the order in which ``info`` lists them."""
    optional: dict[str, int] = {}
    """Optional parts of the observation, and how many leading values they leave out (world body or root joint)."""
    needs_kinematics = False
    """Whether first observations or positions depend on where bodies are, and not on ``qpos`` and ``qvel`` alone."""
    normal_velocities = False
    """Whether the noise of the first velocities is Gaussian. Otherwise it is uniform, as that of positions."""

    def __init__(
        self, arguments: Sequence[TaskArguments], xp: Any = np, stack: Callable[[list[Any]], Array] = np.array
    ) -> None:
        self.xp, first = xp, arguments[0]
        self.hidden, self.included = first.hidden, first.included
        columns = {name: stack([each.values[name] for each in arguments]) for name in first.values}
        self.arguments = SimpleNamespace(**{name: column.swapaxes(0, -1) for name, column in columns.items()})
        self._first_ctrl_cost_weight = first.values["ctrl_cost_weight"]
        self.may_end = stack([bool(each.values.get("terminate_when_unhealthy")) for each in arguments]) != 0
        self.always = stack([True] * len(arguments)) != 0
        self.dt = stack([[each.dt] for each in arguments])
        self.initial_z = stack([each.initial_z for each in arguments])

    @classmethod
    def read_arguments(cls, env: Any) -> TaskArguments:
        """Read what the rules need from an environment."""
        return TaskArguments(
            values={name: getattr(env, f"_{name}") for name in ARGUMENTS if hasattr(env, f"_{name}")},
            dt=env.dt,
            initial_z=env.init_qpos[1],
            hidden=env.observation_structure["skipped_qpos"],
            included=tuple(name for name in cls.optional if getattr(env, f"_include_{name}_in_observation")),
            main_body=env.model.body(getattr(env, "_main_body", 0)).id,
        )

    @staticmethod
    def position_views(source: Callable[[str], Array], main_body: int) -> list[Array]:
        """The arrays from which :meth:`position` is computed.

        :param source: returns an array of the model or data by name: of one environment, or of all with a row for each
        :param main_body: see :class:`TaskArguments`
        """
        return [source("qpos")[..., :1]]

    def position(self, *views: Array) -> Array:
        """The position whose change is the velocity: x, or x and y, shape ``(num_envs, 1 or 2)``.

        :param views: of :meth:`position_views`, each of shape ``(num_envs, size)``
        """
        return views[0]

    def outcome(self, state: Any) -> Outcome:
        """Compute what a step returns, after the physics."""
        self.complete(state)
        terms = {name: getattr(self, name)(state) for name in self.terms}
        ended = ~state.is_healthy & self.may_end
        return Outcome(self.observation(state), self.reward(**terms), ended, terms)

    def complete(self, state: Any) -> None:
        """Add to the state what several rules read."""
        state.is_healthy = self.healthy(state)

    def observation(self, state: Any) -> Array:
        """A new array, ``(num_envs, observation size)``."""
        extras = [getattr(state, name)[:, self.optional[name] :] for name in self.included]
        return self.xp.concatenate([state.qpos[:, self.hidden :], self.observed_velocity(state), *extras], axis=1)

    def observed_velocity(self, state: Any) -> Array:
        return state.qvel

    def healthy(self, state: Any) -> Array:
        return self.always

    def info(self, state: Any) -> dict[str, Array]:
        """The entries of ``info`` that are not rewards."""
        return {"x_position": state.qpos[:, 0], "x_velocity": state.velocity[:, 0]}

    def forward(self, state: Any) -> Array:
        return self.arguments.forward_reward_weight * state.velocity[:, 0]

    def survive(self, state: Any) -> Array:
        return state.is_healthy * self.arguments.healthy_reward

    def ctrl(self, state: Any) -> Array:
        weight, effort = self.arguments.ctrl_cost_weight, self.sum_of_squares(state.action)
        if self.xp is not np:
            return -(weight * effort)
        # Gymnasium multiplies a Python number by a float32 scalar: float64 in NumPy 1, float32 in NumPy 2.
        return -np.multiply(weight, effort, dtype=(self._first_ctrl_cost_weight * effort[0]).dtype)

    def reward(self, forward: Array, ctrl: Array, survive: Array = None, contact: Array = None) -> Array:
        """The sum in Gymnasium's order. Adding negative costs gives the same bits as subtracting costs."""
        gain = forward if survive is None else forward + survive
        return gain + (ctrl if contact is None else ctrl + contact)

    def sum_of_squares(self, values: Array) -> Array:
        return self.xp.square(values).sum(axis=1)


class HalfCheetahRules(TaskRules):
    """HalfCheetah: all defaults."""

    normal_velocities = True


class PlanarRules(TaskRules):
    """A task whose position has two coordinates, x and y."""

    @staticmethod
    def position_views(source: Callable[[str], Array], main_body: int) -> list[Array]:
        return [source("qpos")[..., :2]]

    def info(self, state: Any) -> dict[str, Array]:
        position = state.qpos[:, :2]
        return {
            "x_position": position[:, 0],
            "y_position": position[:, 1],
            # for each row, matmul calls the BLAS routine that numpy.linalg.norm calls for a vector
            "distance_from_origin": self.xp.sqrt(self.xp.matmul(position[:, None, :], position[:, :, None])[:, 0, 0]),
            "x_velocity": state.velocity[:, 0],
            "y_velocity": state.velocity[:, 1],
        }


class SwimmerRules(PlanarRules):
    """Swimmer: the planar defaults."""


class Walker2dRules(TaskRules):
    """Walker2d: the robot must keep its height and angle."""

    terms = ("forward", "ctrl", "survive")

    def observed_velocity(self, state: Any) -> Array:
        return self.xp.clip(state.qvel, -10, 10)

    def healthy(self, state: Any) -> Array:
        z, angle = state.qpos[:, 1], state.qpos[:, 2]
        return within(z, self.arguments.healthy_z_range) & within(angle, self.arguments.healthy_angle_range)

    def info(self, state: Any) -> dict[str, Array]:
        x, z = state.qpos[:, 0], state.qpos[:, 1]
        return {"x_position": x, "z_distance_from_origin": z - self.initial_z, "x_velocity": state.velocity[:, 0]}


class HopperRules(Walker2dRules):
    """Hopper: as Walker2d, and the whole state must stay within limits."""

    def healthy(self, state: Any) -> Array:
        limits = self.arguments.healthy_state_range[..., None]
        positions = within(state.qpos[:, 2:], limits).all(axis=1)
        return super().healthy(state) & positions & within(state.qvel, limits).all(axis=1)


class AntRules(PlanarRules):
    """Ant: contact forces are observed and cost."""

    fields = ("qpos", "qvel", "cfrc_ext")
    terms = ("forward", "ctrl", "contact", "survive")
    optional = {"cfrc_ext": 6}
    needs_kinematics = True
    normal_velocities = True

    @staticmethod
    def position_views(source: Callable[[str], Array], main_body: int) -> list[Array]:
        return [source("xpos")[..., main_body, :2]]

    def complete(self, state: Any) -> None:
        super().complete(state)
        low, high = self.arguments.contact_force_range[..., None]
        state.cfrc_ext = self.xp.clip(state.cfrc_ext, low, high)

    def healthy(self, state: Any) -> Array:
        z, (low, high) = state.qpos[:, 2], self.arguments.healthy_z_range
        finite = self.xp.isfinite(state.qpos).all(axis=1) & self.xp.isfinite(state.qvel).all(axis=1)
        return finite & (low <= z) & (z <= high)

    def contact(self, state: Any) -> Array:
        return -(self.arguments.contact_cost_weight * self.sum_of_squares(state.cfrc_ext))


class HumanoidRules(PlanarRules):
    """Humanoid: velocities are those of the centre of mass."""

    fields = ("qpos", "qvel", "cinert", "cvel", "qfrc_actuator", "cfrc_ext", "ctrl", "ten_length", "ten_velocity")
    terms = ("survive", "forward", "ctrl", "contact")
    optional = {"cinert": 10, "cvel": 6, "qfrc_actuator": 6, "cfrc_ext": 6}
    needs_kinematics = True

    @staticmethod
    def position_views(source: Callable[[str], Array], main_body: int) -> list[Array]:
        return [source("body_mass"), source("xipos")]

    def position(self, *views: Array) -> Array:
        mass, centers = views
        moment = self.xp.einsum("nb,nbj->nj", mass, centers.reshape(*mass.shape, 3))
        return (moment / mass.sum(axis=1, keepdims=True))[:, :2]

    def healthy(self, state: Any) -> Array:
        return within(state.qpos[:, 2], self.arguments.healthy_z_range)

    def info(self, state: Any) -> dict[str, Array]:
        motion = super().info(state)
        position = {name: motion.pop(name) for name in ("x_position", "y_position")}
        tendons = {"tendon_length": state.ten_length.copy(), "tendon_velocity": state.ten_velocity.copy()}
        return position | tendons | motion

    def ctrl(self, state: Any) -> Array:
        # the simulator's own control, which is zero after an unstable state
        return -(self.arguments.ctrl_cost_weight * self.sum_of_squares(state.ctrl))

    def contact(self, state: Any) -> Array:
        cost = self.arguments.contact_cost_weight * self.sum_of_squares(state.cfrc_ext)
        return -self.xp.clip(cost, *self.arguments.contact_cost_range)


RULES: dict[type[MujocoEnv], type[TaskRules]] = {
    AntEnv: AntRules,
    HalfCheetahEnv: HalfCheetahRules,
    HopperEnv: HopperRules,
    HumanoidEnv: HumanoidRules,
    SwimmerEnv: SwimmerRules,
    Walker2dEnv: Walker2dRules,
}
