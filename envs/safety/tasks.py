"""Safety-Gymnasium's tasks as ordinary Gymnasium environments, ``cost`` in ``info``, and how they are shifted."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

from daft_rl.envs.mujoco.tasks import element_names, scale_model
from daft_rl.envs.registry import unknown
from daft_rl.envs.safety.fast_step import speed_up
from daft_rl.envs.safety.package import Blueprint, blueprints
from daft_rl.envs.shift import Scale, Shift, check_number, resolve_pattern
from daft_rl.envs.wrappers import shift_interface
from daft_rl.errors import TaskError
from daft_rl.imports import load_object

__all__ = ["SafetyEnv", "SafetyShift", "get_blueprint", "make_safety"]


@dataclass(frozen=True, kw_only=True)
class SafetyShift(Shift):
    """A change of a Safety-Gymnasium task. Factors are relative to the unshifted task; 1 changes nothing.

    Names are the model's own: bodies for ``mass``, joints for ``damping`` and ``gear``.
    """

    mass: Scale = 1.0
    """Factor on mass and inertia of the robot's bodies."""
    damping: Scale = 1.0
    """Factor on the damping of the robot's joints."""
    gear: Scale = 1.0
    """Factor on the gear of actuators, by their joint or, where they act on a site, by their own name. For motors
    (all of Car, the thrust ``x`` of Point) that is strength. Point's steering ``z`` and Racecar's motors are servos:
    twice the gear halves the velocity they aim at, and Point's steering then oscillates."""
    floor_friction: float = 1.0
    """Factor on the friction of the floor, which holds for whatever touches it. Point slides on joints: of it only
    what it pushes feels it."""
    hazards: int | None = None
    """How many hazards there are; ``None`` keeps the task's number."""
    hazard_size: float = 1.0
    """Factor on the radius of hazards."""
    level: int | None = None
    """Difficulty, 0 to 2; ``None`` keeps the task's own. Levels 1 and 2 have observations of the same shape."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_scale("mass", positive=True)
        for name in ("damping", "gear"):
            self._check_scale(name, positive=False)
        check_number("floor_friction", self.floor_friction, 0.0)
        check_number("hazard_size", self.hazard_size, 0.0, exclusive=True)
        # the package's lidar cannot look at no hazards, and its search for places takes minutes where there are many
        for name, least, most in (("hazards", 1, 30), ("level", 0, 9)):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most
            ):
                raise TaskError(
                    f"shift.{name}: expected a whole number from {least} to {most}, or null for the task's own, "
                    f"got {value!r}."
                )


class SafetyEnv(gym.Env[np.ndarray, np.ndarray]):
    """One of the package's environments with Gymnasium's interface.

    ``info`` has ``cost`` (of the step), ``episode_cost`` (their sum so far), and what the package tells.

    :param blueprint: how the package makes it
    :param edit: changes the compiled model, in place; called after every reset, which compiles a new one
    :param prepare: changes the package's task object before its first reset
    :param render_mode: ``"rgb_array"`` or ``None``
    :param fast: the same numbers in less time; ``False`` leaves the package's own methods
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(
        self,
        blueprint: Blueprint,
        edit: Callable[[mujoco.MjModel], None] | None = None,
        prepare: Callable[[Any], None] | None = None,
        render_mode: str | None = None,
        fast: bool = True,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise TaskError(f"Safety-Gymnasium's tasks render as rgb_array or None, got '{render_mode}'.")
        state = np.random.get_state()  # the package draws its first seed from the global generator
        self._env: Any = load_object(blueprint.entry_point)(**blueprint.kwargs)
        np.random.set_state(state)
        self.render_mode = render_mode
        self._renderer: mujoco.Renderer | None = None
        self.observation_space, self.action_space = self._env.observation_space, self._env.action_space
        self._episode_cost = 0.0
        if prepare is not None:
            prepare(self.task)
        if edit is not None:
            self._edit_with(edit)
        if fast and hasattr(self.task, "agent"):
            speed_up(self.task)

    def _edit_with(self, edit: Callable[[mujoco.MjModel], None]) -> None:
        if hasattr(self.task, "agent"):
            self.task.agent.edit_model = edit  # the package compiles a new model at every reset
        else:
            edit(self.model)

    @property
    def task(self) -> Any:
        """The package's task object; the environment itself where it has none."""
        return getattr(self._env, "task", self._env)

    @property
    def model(self) -> mujoco.MjModel:
        """The present model; a reset compiles a new one."""
        return self.task.model

    @property
    def data(self) -> mujoco.MjData:
        """The state of the present model."""
        return self.task.data

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode; see :meth:`gymnasium.Env.reset`."""
        fresh = self._np_random is None
        super().reset(seed=seed)
        self.close()  # the renderer is one of the model, which will be another
        if seed is None and fresh:
            seed = int(self.np_random.integers(2**31))
        self._episode_cost = 0.0
        observation, info = self._env.reset(seed=seed, options=options)
        return observation, {**info, "cost": 0.0, "episode_cost": 0.0}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a step; see :meth:`gymnasium.Env.step`."""
        observation, reward, cost, terminated, truncated, info = self._env.step(action)
        self._episode_cost += float(cost)
        info = {**info, "cost": float(cost), "episode_cost": self._episode_cost}
        return observation, float(reward), bool(terminated), bool(truncated), info

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """A picture from above, shape (480, 480, 3), ``uint8``, with ``render_mode="rgb_array"``.

        The package's own renderer needs an older gymnasium.
        """
        if self.render_mode is None:
            return None
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self.model, 480, 480)
        view = mujoco.MjvCamera()
        view.distance, view.elevation, view.azimuth = 6.0, -60.0, 90.0
        view.lookat[:] = 0.0
        visible = mujoco.MjvOption()
        visible.geomgroup[:] = 1  # goals and hazards are in groups that MuJoCo hides
        self._renderer.update_scene(self.data, view, visible)
        return self._renderer.render()

    def close(self) -> None:
        """Free what rendering took."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _prepare(shift: SafetyShift) -> Callable[[Any], None]:
    def prepare(task: Any) -> None:
        if shift.hazards is None and shift.hazard_size == 1.0:
            return
        if not hasattr(task, "hazards"):
            raise TaskError(f"shift.hazards and shift.hazard_size: {type(task).__name__} has no hazards.")
        if shift.hazards is not None:
            task.hazards.num = shift.hazards
        size, room = task.hazards.size * shift.hazard_size, task.hazards.keepout + task.agent.keepout
        if size > room:
            raise TaskError(
                f"shift.hazard_size={shift.hazard_size:g}: hazards of radius {size:g} could reach the agent at the "
                f"start, where {room:g} is kept free. At most {room / task.hazards.size:.3g} is possible."
            )
        task.hazards.size = size

    return prepare


def _edit(shift: SafetyShift) -> Callable[[mujoco.MjModel], None] | None:
    if all(getattr(shift, name) == 1.0 for name in ("mass", "damping", "gear", "floor_friction")):
        return None

    def edit(model: mujoco.MjModel) -> None:
        bodies = element_names(model, mujoco.mjtObj.mjOBJ_BODY, model.nbody)
        root = bodies.index("agent") if "agent" in bodies else 1
        robot = [name for i, name in enumerate(bodies) if model.body_rootid[i] == root]
        if shift.floor_friction != 1.0:  # else a contact takes the larger friction, which is never that of less floor
            model.geom("floor").priority = 1
        scale_model(
            model,
            mass=resolve_pattern("mass", shift.mass, robot),
            damping=shift.damping,
            gear=shift.gear,
            friction={"floor": shift.floor_friction},
        )

    return edit


def get_blueprint(id: str) -> Blueprint:
    """How the package makes the environment with this id.

    :raises TaskError: the package is not installed or has none
    """
    known = blueprints()
    if id not in known:
        raise unknown("Safety-Gymnasium task", id, sorted(known))
    return known[id]


def make_safety(base: str, shift: SafetyShift, render_mode: str | None = None) -> gym.Env:
    """The entry point of our registered Safety-Gymnasium tasks.

    :param base: an id of the package, for instance ``SafetyPointGoal1-v0``
    :param shift: what changes
    :param render_mode: ``"rgb_array"`` or ``None``
    :raises TaskError: the package is not installed or has no such task, or the task has nothing of that kind to shift
    """
    blueprint = get_blueprint(base)
    if shift.level is not None:
        other, levels = re.subn(r"\d(?=(Vision)?-v\d+$)", str(shift.level), base)
        if not levels:
            raise TaskError(f"shift.level={shift.level}: {base} has no levels.")
        blueprint = get_blueprint(other)
    return shift_interface(SafetyEnv(blueprint, _edit(shift), _prepare(shift), render_mode), shift)
