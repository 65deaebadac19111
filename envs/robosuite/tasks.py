"""robosuite's Door and Wipe with a Panda arm, and how their physics is shifted.

robosuite is imported when a task of it is made, not before: that takes seconds, and it may not be installed.
What differs from robosuite's own Gymnasium wrapper: a seed reproduces an episode, whatever came before; the end
of the time is a truncation; what a policy observes keeps its shape under every shift.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces

from daft_rl.envs.installed import check_installed
from daft_rl.envs.robosuite.fast_step import FastStep
from daft_rl.envs.shift import Shift, check_number
from daft_rl.envs.wrappers import shift_interface
from daft_rl.errors import TaskError

__all__ = ["RobosuiteEnv", "RobosuiteShift", "import_robosuite", "make_robosuite"]

CONTROL_FREQUENCY = 20  # actions per second; 25 physics steps each
HORIZON = 500  # steps; Wipe scales its reward with it
HANDLE_ANGLE = 13  # of Door's observation

FIELDS = {
    "Door": ("hinge_damping", "hinge_friction", "door_mass", "latch", "door_offset"),
    "Wipe": ("table_friction", "table_height", "markers", "line_width", "two_clusters"),
}
ROBOTS = {"Door": ("Panda", "Sawyer"), "Wipe": ("Panda", "IIWA", "Kinova3")}
"""Arms whose observation has the shape of Panda's. Sawyer's model collides with itself, which ends a Wipe at once."""


@dataclass(frozen=True, kw_only=True)
class RobosuiteShift(Shift):
    """A change of a robosuite task. Factors are relative to the unshifted task; 1 changes nothing."""

    controller_gain: float = 1.0
    """Factor on the stiffness (kp) of the operational space controller; its damping follows, see below."""
    damping_ratio: float = 1.0
    """Damping ratio of that controller; 1 is critical damping."""
    arm_mass: float = 1.0
    """Factor on mass and inertia of the arm's links. The controller knows it, as far as its motors are able."""
    arm_damping: float = 1.0
    """Factor on the damping of the arm's joints, of which the controller does not know."""
    arm_friction: float = 1.0
    """Factor on the dry friction of the arm's joints, of which the controller does not know."""
    robot: str = "Panda"
    """The arm: in Door ``"Panda"`` or ``"Sawyer"``, in Wipe ``"Panda"``, ``"IIWA"`` or ``"Kinova3"``."""

    hinge_damping: float = 1.0
    """Door: factor on the damping of the hinge (0.1 Nms/rad)."""
    hinge_friction: float = 0.0
    """Door: dry friction of the hinge (Nm). The unshifted hinge has none, so this is no factor."""
    door_mass: float = 1.0
    """Door: factor on mass (2.4 kg) and inertia of the door leaf."""
    latch: bool = True
    """Door: whether the handle must be turned first. Without it, reward for turning is gone and its angle reads 0."""
    door_offset: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Door: displacement of the place around which the door is put: x, y (m), and if given yaw (rad)."""

    table_friction: float = 1.0
    """Wipe: factor on all three friction coefficients of the table (sliding 0.03)."""
    table_height: float = 0.0
    """Wipe: metres by which the table is higher."""
    markers: int | None = None
    """Wipe: number of pieces of dirt; ``None`` is robosuite's 100. The reward is scaled by what can be earned."""
    line_width: float = 1.0
    """Wipe: factor on the width (0.04 m) of the line of dirt: how close to the edge dirt may lie, and how it looks."""
    two_clusters: bool = False
    """Wipe: two lines of dirt, each with half of the pieces."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("controller_gain", "arm_mass", "door_mass", "line_width"):
            check_number(name, getattr(self, name), 0.0, exclusive=True)
        for name in ("damping_ratio", "arm_damping", "arm_friction", "hinge_damping", "hinge_friction"):
            check_number(name, getattr(self, name), 0.0)
        check_number("table_friction", self.table_friction, 0.0)
        check_number("table_height", self.table_height, None)
        _check_at_most("table_height", abs(self.table_height), 0.1, "metres up or down")  # the arm starts 0.18 above
        _check_at_most("line_width", self.line_width, 5.0, "of the unshifted width: the table is no wider")
        for name in ("latch", "two_clusters"):
            if not isinstance(getattr(self, name), bool):
                raise TaskError(f"shift.{name}: expected true or false, got {getattr(self, name)!r}.")
        if self.markers is not None and (
            isinstance(self.markers, bool) or not isinstance(self.markers, int) or self.markers < 2
        ):
            raise TaskError(f"shift.markers: expected a whole number of at least 2, got {self.markers!r}.")
        known = sorted({robot for robots in ROBOTS.values() for robot in robots})
        if self.robot not in known:
            raise TaskError(f"shift.robot: unknown robot {self.robot!r}. What exists: {', '.join(known)}.")
        object.__setattr__(self, "door_offset", _check_offset(self.door_offset))


def _check_at_most(field: str, value: float, maximum: float, unit: str) -> None:
    if value > maximum:
        raise TaskError(f"shift.{field}: {value!r} is impossible, it must be at most {maximum:g} {unit}.")


def _check_offset(value: Any) -> tuple[float, ...]:
    try:
        offset = tuple(value)
    except TypeError:
        offset = ()
    if len(offset) not in (2, 3):
        raise TaskError(f"shift.door_offset: expected x, y (m) and maybe yaw (rad), got {value!r}.")
    offset = tuple(check_number("door_offset", number, None) for number in offset)
    return offset if len(offset) == 3 else (*offset, 0.0)


def _check_fits(base: str, shift: RobosuiteShift) -> None:
    """Refuse a shift that means nothing for the task; robosuite is not needed to tell."""
    if base not in FIELDS:
        raise TaskError(f"Unknown robosuite task '{base}'. What exists: {', '.join(FIELDS)}.")
    others = {name for task, names in FIELDS.items() if task != base for name in names}
    foreign = sorted(others & shift.changes().keys())
    if foreign:
        fields = [name for name in RobosuiteShift().__dataclass_fields__ if name not in others]
        named = ", ".join(f"shift.{name}" for name in foreign)
        raise TaskError(f"{named}: not of task '{base}'. What can be shifted there: {', '.join(fields)}.")
    if shift.robot not in ROBOTS[base]:
        raise TaskError(
            f"shift.robot: '{shift.robot}' cannot stand in for Panda in task '{base}': another shape of observation, "
            f"or a model that collides with itself. What can: {', '.join(ROBOTS[base])}."
        )


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Keep what robosuite does while it is imported to itself: messages, ``MUJOCO_GL``, files in its own folder."""
    from numba import config

    logger = logging.getLogger("robosuite_logs")
    rendering, cache = os.environ.get("MUJOCO_GL"), config.CACHE_DIR  # type: ignore[attr-defined]

    def only_errors(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger.addFilter(only_errors)
    if not cache:  # compiled controller code; without a cache every process compiles for half a minute
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        config.CACHE_DIR = str(Path(home) / "daft_rl" / "numba")  # type: ignore[attr-defined]
    try:
        yield
    finally:
        config.CACHE_DIR = cache  # type: ignore[attr-defined]
        logger.removeFilter(only_errors)
        if rendering is None:
            os.environ.pop("MUJOCO_GL", None)
        else:
            os.environ["MUJOCO_GL"] = rendering
    logger.setLevel(logging.ERROR)  # Wipe would warn at every step near a joint limit


def import_robosuite() -> ModuleType:
    """robosuite, imported silently. Where it has been imported before, its logging stays as it is.

    :raises TaskError: it is not installed, or its import fails
    """
    if "robosuite" in sys.modules:
        return sys.modules["robosuite"]
    check_installed("robosuite")
    try:
        with _quiet_import():
            import robosuite

            import daft_rl.envs.robosuite.kernels  # noqa: F401, its compiled code goes into the same cache
    except (ImportError, AttributeError) as error:
        raise TaskError(
            f"robosuite is installed, but its import fails ({error}). "
            "It needs mujoco 3.9 and numpy below 2: pip install 'daft-rl[robosuite]'."
        ) from error
    return robosuite


def _controller(shift: RobosuiteShift) -> dict[str, Any]:
    """The configuration of the arm's controller, and of nothing that the arm does not have."""
    from robosuite.controllers import load_composite_controller_config

    config: Any = load_composite_controller_config(controller="BASIC", robot=shift.robot)
    arm = config["body_parts"]["right"]
    arm["kp"] = arm["kp"] * shift.controller_gain
    arm["damping_ratio"] = arm["damping_ratio"] * shift.damping_ratio
    config["body_parts"] = {"right": arm}
    return config


def _wipe_config(shift: RobosuiteShift) -> dict[str, Any]:
    from robosuite.environments.manipulation.wipe import DEFAULT_WIPE_CONFIG

    config: dict[str, Any] = deepcopy(DEFAULT_WIPE_CONFIG)
    config["table_friction"] = [value * shift.table_friction for value in config["table_friction"]]
    config["table_height"] += shift.table_height
    config["line_width"] *= shift.line_width
    config["two_clusters"] = shift.two_clusters
    if shift.markers is not None:
        config["num_markers"] = shift.markers
    return config


def _build(base: str, shift: RobosuiteShift) -> Any:
    """robosuite's own environment, everything but the edits of the compiled model applied."""
    robosuite = import_robosuite()
    own = {"use_latch": shift.latch} if base == "Door" else {"task_config": _wipe_config(shift)}
    sim_env = robosuite.make(
        base,
        robots=shift.robot,
        controller_configs=_controller(shift),
        reward_shaping=True,
        control_freq=CONTROL_FREQUENCY,
        horizon=HORIZON,
        ignore_done=True,  # the end of the time is TimeLimit's to tell
        hard_reset=False,  # a model that is loaded anew costs 0.14 s and forgets our edits
        use_camera_obs=False,
        has_renderer=False,
        has_offscreen_renderer=False,
        renderer="mujoco",
        seed=0,  # so that every instance starts with the same model
        **own,
    )
    if base == "Door":
        sampler = sim_env.placement_initializer
        x, y, yaw = shift.door_offset
        sampler.reference_pos = np.asarray(sampler.reference_pos) + np.array([x, y, 0.0])
        sampler.rotation = tuple(angle + yaw for angle in sampler.rotation)
    return sim_env


def _edit(sim_env: Any, base: str, shift: RobosuiteShift) -> None:
    """Apply the shift to the compiled model, in place and once: resets keep the model."""
    model = sim_env.sim.model._model
    robot = sim_env.robots[0]
    dofs = list(robot._ref_joint_vel_indexes)
    model.dof_damping[dofs] *= shift.arm_damping
    model.dof_frictionloss[dofs] *= shift.arm_friction
    factors = np.ones(model.nbody)
    prefix = robot.robot_model.naming_prefix
    factors[[body for body in range(model.nbody) if model.body(body).name.startswith(prefix)]] = shift.arm_mass
    if base == "Door":
        hinge = model.joint(sim_env.door.hinge_joint).dofadr[0]
        model.dof_damping[hinge] *= shift.hinge_damping
        model.dof_frictionloss[hinge] += shift.hinge_friction
        factors[model.body(sim_env.door.door_body).id] = shift.door_mass
    if not np.all(factors == 1.0):
        model.body_mass[:] *= factors
        model.body_inertia[:] *= factors[:, None]
        mujoco.mj_setConst(model, mujoco.MjData(model))  # constants that MuJoCo derives from masses


class RobosuiteEnv(gym.Env[np.ndarray, np.ndarray]):
    """A robosuite task as a Gymnasium environment, without time limit.

    The observation is robosuite's object state followed by the robot's own state, ``float32``: 64 entries in Door,
    55 in Wipe. Actions move the gripper (three translations, three rotations; in Door also closing it), in
    ``[-1, 1]``. Wipe terminates when all is wiped, when the arm touches anything but with its wiper, and near a
    limit of a joint: robosuite's own default.

    :param base: ``"Door"`` or ``"Wipe"``
    :param shift: what changes; changes of observations and actions are not applied here
    :param render_mode: ``"rgb_array"`` or ``None``
    :param camera: the model's camera that renders
    :param fast: step in our own code, which gives the same numbers in less time
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
        _check_fits(base, shift)
        if render_mode not in (None, "rgb_array"):
            raise TaskError(f"Task '{base}' cannot render as '{render_mode}'. Modes that exist: rgb_array, None.")
        self.base, self.shift, self.render_mode, self.camera = base, shift, render_mode, camera
        self.sim_env = _build(base, shift)
        _edit(self.sim_env, base, shift)
        model = self.sim_env.sim.model._model
        self._placement = {name: getattr(model, name).copy() for name in ("body_pos", "body_quat", "geom_rgba")}
        self._renderer: mujoco.Renderer | None = None

        # one generator for everything: robosuite's objects hold references to this one
        self.np_random = self.sim_env.rng
        self.np_random.bit_generator.state = np.random.default_rng().bit_generator.state
        self._fast = FastStep(self.sim_env) if fast else None
        size = self._flat(self._read(self.sim_env.reset())).size
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self.sim_env.action_dim,), np.float32)

    @property
    def model(self) -> mujoco.MjModel:
        """The compiled model."""
        return self.sim_env.sim.model._model

    @property
    def data(self) -> mujoco.MjData:
        """The state of the simulation."""
        return self.sim_env.sim.data._data

    def _read(self, observations: dict[str, np.ndarray]) -> np.ndarray:
        """Object state, then the robot's, from what robosuite returns; ``float64``."""
        return np.concatenate((observations["object-state"], observations["robot0_proprio-state"]))

    def _flat(self, observation: np.ndarray) -> np.ndarray:
        """What a policy sees. A door without latch has no handle to turn: the angle of it is 0."""
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
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; with a seed, always the same one. See :meth:`gymnasium.Env.reset`."""
        if seed is not None:
            generator = self.sim_env.rng
            super().reset(seed=seed)
            assert self._np_random is not None
            generator.bit_generator.state = self._np_random.bit_generator.state
            self._np_random = generator
        for name, values in self._placement.items():  # robosuite simulates before it puts things in new places
            getattr(self.model, name)[:] = values
        observation = self._read(self.sim_env.reset())
        if self._fast is not None:
            observation = self._fast.begin()
        return self._flat(observation), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See :meth:`gymnasium.Env.step`; ``info`` says ``is_success`` and in Wipe which share is ``wiped``."""
        action = np.array(action, np.float64)
        if self._fast is not None:
            observation, reward, terminated = self._fast.step(action)
        else:
            observations, reward, terminated, _ = self.sim_env.step(action)
            observation = self._read(observations)
        return self._flat(observation), float(reward), bool(terminated), False, self._info()

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """An image, shape (480, 640, 3), ``uint8``, with ``render_mode="rgb_array"``."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self.model, 480, 640)
        visible = mujoco.MjvOption()
        visible.geomgroup[0] = 0  # shapes for collisions, drawn over what they stand for
        self._renderer.update_scene(self.data, self.camera, visible)
        return self._renderer.render()

    def close(self) -> None:
        """Free the renderer and the simulation."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        if self.sim_env.sim is not None:
            self.sim_env.close()


def make_robosuite(base: str, shift: RobosuiteShift, render_mode: str | None = None, **kwargs: Any) -> gym.Env:
    """The entry point of our registered robosuite tasks.

    :param base: ``"Door"`` or ``"Wipe"``
    :param shift: what changes
    :param render_mode: ``"rgb_array"`` or ``None``
    :param kwargs: further keywords of :class:`RobosuiteEnv`
    """
    return shift_interface(RobosuiteEnv(base, shift, render_mode=render_mode, **kwargs), shift)
