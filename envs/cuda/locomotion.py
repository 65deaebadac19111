"""Gymnasium's MuJoCo tasks (v5) as worlds: Ant, HalfCheetah, Hopper, Walker2d, Humanoid and Swimmer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import mujoco
import torch
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray
from torch import Tensor

from daft_rl.envs.batch.supported import find_rules, wrappers_of
from daft_rl.envs.cuda.worlds import Blueprint, Worlds
from daft_rl.envs.mujoco.environment import make_mujoco, make_registered_mujoco
from daft_rl.envs.mujoco.rules import (
    AntRules,
    HalfCheetahRules,
    HopperRules,
    HumanoidRules,
    SwimmerRules,
    TaskArguments,
    TaskRules,
    Walker2dRules,
)
from daft_rl.envs.mujoco.shift import RegisteredMujocoShift
from daft_rl.envs.registered import RegisteredShift, make_registered
from daft_rl.envs.shift import Shift
from daft_rl.envs.wrappers import ActionDelay, MissingSensors, ObservationShift
from daft_rl.errors import TaskError

__all__ = ["LocomotionBlueprint", "LocomotionWorlds"]

TIME_LIMIT = 1000
"""Steps of an episode of each of these tasks, unless Gymnasium is told otherwise."""
MEMORY: dict[type[TaskRules], tuple[int, int]] = {
    AntRules: (16, 72),
    HalfCheetahRules: (12, 48),
    HopperRules: (12, 56),
    HumanoidRules: (64, 128),
    SwimmerRules: (4, 8),
    Walker2dRules: (16, 72),
}
"""Contacts and constraint rows of a world: 1.5 times the most in 2100 steps of extreme actions, under four shifts
(gravity 0.1, 1 and 5, friction 5), without terminations."""
CAUSED_BY_ACTIONS = {"qfrc_actuator", "cfrc_ext", "ctrl"}
"""Fields that are zero when an episode begins."""


@dataclass(frozen=True)
class LocomotionBlueprint(Blueprint):
    """What one of Gymnasium's MuJoCo environments knows about its task."""

    rules: type[TaskRules]
    arguments: TaskArguments
    frame_skip: int
    init_qpos: NDArray[Any]
    init_qvel: NDArray[Any]
    reset_noise: float


def _entry_point(shift: Shift) -> Callable[..., Any]:
    """What makes the environment of a shift."""
    if isinstance(shift, RegisteredMujocoShift):
        return make_registered_mujoco
    return make_registered if isinstance(shift, RegisteredShift) else make_mujoco


def _refuse_own_interface(env: gym.Env, shift: Shift) -> None:
    """Worlds apply what the shift says, and would leave out what wrappers of a registration do besides.

    :raises TaskError: there are such wrappers
    """
    shifts_observations = shift.observation_noise or shift.observation_offset or shift.observation_scale != 1.0
    known = bool(shift.action_delay) + bool(shifts_observations)
    kinds = (ActionDelay, MissingSensors, ObservationShift)
    found = [type(wrapper).__name__ for wrapper in wrappers_of(env) if isinstance(wrapper, kinds)]
    others = found[known:]  # the shift's are outside
    if others:
        raise TaskError(
            f"vec='cuda' does not apply the wrappers of a registration, here {', '.join(others)}. Use vec='auto'.",
            arguments=("vec",),
        )


class LocomotionWorlds(Worlds):
    """Worlds of one of Gymnasium's MuJoCo tasks. Blueprints come from :meth:`blueprint`."""

    def __init__(
        self,
        blueprints: Sequence[LocomotionBlueprint],
        blueprint_of_world: NDArray[Any],
        device: str | torch.device = "cuda",
        seed: int = 0,
    ) -> None:
        first = blueprints[0]
        self.contacts, self.constraints = MEMORY[first.rules]
        super().__init__(blueprints, blueprint_of_world, device, seed)
        self._rules = first.rules([each.arguments for each in blueprints], torch, self.per_world)
        self._init_qpos = self.per_world([each.init_qpos for each in blueprints])
        self._init_qvel = self.per_world([each.init_qvel for each in blueprints])
        self._reset_noise = self.per_world([[each.reset_noise] for each in blueprints])
        self._frame_skip = first.frame_skip
        self._read_fields(first.arguments.main_body)
        self._before = torch.zeros_like(self._rules.position(*self._position_views))
        self._simulate = self.physics.program(self._run_steps)
        self._place = self.physics.program(self._run_kinematics)

    @classmethod
    def blueprint(cls, shift: Shift, **kwargs: Any) -> LocomotionBlueprint:
        """Read what worlds need from our shifted environment, or from one of Gymnasium's registry.

        :param shift: of one of these tasks, or how to make an environment of Gymnasium's registry
        :param kwargs: keywords of the task's entry point, see :class:`daft_rl.envs.registry.Task`
        :raises TaskError: the environment is none of Gymnasium's MuJoCo tasks, or changes what they compute
        """
        env = _entry_point(shift)(shift=shift, **kwargs)
        task, core = find_rules(env), env.unwrapped
        _refuse_own_interface(env, shift)
        if core.model.opt.solver == mujoco.mjtSolver.mjSOL_PGS:  # Humanoid's, which MuJoCo Warp does not have
            core.model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
        limits = [wrapper._max_episode_steps for wrapper in wrappers_of(env) if isinstance(wrapper, TimeLimit)]
        return LocomotionBlueprint(
            model=core.model,
            shift=shift,
            observation_space=core.observation_space,
            action_space=core.action_space,
            time_limit=min(limits, default=TIME_LIMIT),
            rules=task,
            arguments=task.read_arguments(core),
            frame_skip=core.frame_skip,
            init_qpos=core.init_qpos,
            init_qvel=core.init_qvel,
            reset_noise=core._reset_noise_scale,
        )

    def _read_fields(self, main_body: int) -> None:
        """Find the simulator's arrays. They keep their memory, so this is done once."""
        field = self.physics.field
        self._qpos, self._qvel, self._ctrl = field("qpos"), field("qvel"), field("ctrl")
        self._carried_over = [field("qacc_warmstart"), field("act"), field("time")]
        self._state = {name: field(name).flatten(1) for name in self._rules.fields}
        self._first_state = {
            name: torch.zeros_like(values) if name in CAUSED_BY_ACTIONS else values
            for name, values in self._state.items()
        }
        self._position_views = [view.flatten(1) for view in self._rules.position_views(self._array, main_body)]

    def _array(self, name: str) -> Tensor:
        """An array of the data or, if it is none, of the model."""
        physics = self.physics
        return physics.field(name) if hasattr(physics.data, name) else physics.model_field(name)

    def _run_steps(self) -> None:
        mjw, model, data = self.physics.mjw, self.physics.model, self.physics.data
        for _ in range(self._frame_skip):
            mjw.step(model, data)
        if "cfrc_ext" in self._rules.fields:
            mjw.rne_postconstraint(model, data)

    def _run_kinematics(self) -> None:
        """Compute what a first observation and position need besides positions and velocities of joints."""
        mjw, model, data = self.physics.mjw, self.physics.model, self.physics.data
        mjw.kinematics(model, data)
        if "cinert" in self._rules.fields:
            mjw.com_pos(model, data)
            mjw.com_vel(model, data)

    def restart(self, rows: Tensor) -> Tensor:
        """Begin a new episode in some worlds, see :meth:`daft_rl.envs.cuda.worlds.Worlds.restart`."""
        chosen = rows[:, None]
        torch.where(chosen, self._init_qpos + self._uniform(self._qpos), self._qpos, out=self._qpos)
        torch.where(chosen, self._init_qvel + self._velocity_noise(), self._qvel, out=self._qvel)
        for values in self._carried_over:
            values.masked_fill_(rows if values.dim() == 1 else chosen, 0.0)
        if self._rules.needs_kinematics:
            self._place()
        torch.where(chosen, self._rules.position(*self._position_views), self._before, out=self._before)
        return self._rules.observation(SimpleNamespace(**self._first_state))

    def _uniform(self, like: Tensor) -> Tensor:
        """Uniform noise of the reset."""
        draw = torch.rand(like.shape, generator=self.generator, device=self.device)
        return self._reset_noise * (2.0 * draw - 1.0)

    def _velocity_noise(self) -> Tensor:
        if not self._rules.normal_velocities:
            return self._uniform(self._qvel)
        return self._reset_noise * torch.randn(self._qvel.shape, generator=self.generator, device=self.device)

    def move(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Step the physics and apply the task's rules, see :meth:`daft_rl.envs.cuda.worlds.Worlds.move`."""
        self._ctrl.copy_(action)
        self._simulate()
        after = self._rules.position(*self._position_views)
        state = SimpleNamespace(**self._state, action=action, velocity=(after - self._before) / self._rules.dt)
        self._before.copy_(after)
        result = self._rules.outcome(state)
        return result.observation, result.reward, result.terminated, {}
