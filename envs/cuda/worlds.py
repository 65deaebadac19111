"""Many worlds of one task on one device: what a batch does whatever its simulator.

A family's subclass moves its worlds and computes observations and rewards. This class counts steps, ends and restarts
episodes, delays actions and shifts observations. Nothing waits for the device but :meth:`Worlds.check`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mujoco
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from daft_rl.envs.cuda.physics import Physics
from daft_rl.envs.shift import Shift
from daft_rl.envs.wrappers import OFFSET_SEED
from daft_rl.errors import DaftWarning

__all__ = ["Blueprint", "Step", "Worlds"]


@dataclass(frozen=True)
class Blueprint:
    """What a family's C environment knows about one shift, read from it once on the host. It can be pickled.

    A family adds what its rules need. Building worlds from blueprints does without the family's package.
    """

    model: mujoco.MjModel
    """The shifted model."""
    shift: Shift
    observation_space: spaces.Box
    """Before shifts of observations."""
    action_space: spaces.Box
    time_limit: int
    """Steps until an episode is truncated."""


@dataclass(frozen=True)
class Step:
    """What one step of all worlds gives. The first dimension of every tensor is the number of worlds."""

    observation: Tensor
    """What the policy acts on next: the first observation of a new episode where one ended. ``float32``."""
    reward: Tensor
    """``float32``"""
    terminated: Tensor
    """Booleans: the task ended the episode."""
    truncated: Tensor
    """Booleans: the time limit ended the episode, and the task did not."""
    final_observation: Tensor
    """The observation after the action, before any restart."""
    extras: dict[str, Tensor] = field(default_factory=dict)
    """Further values by the name that they have in ``info``, such as ``cost`` or ``is_success``."""

    @property
    def done(self) -> Tensor:
        """Whether an episode ended, for either reason."""
        return self.terminated | self.truncated


class Worlds(ABC):
    """Worlds that step together on one device.

    :param blueprints: the distinct shifts
    :param blueprint_of_world: for each world the index of its blueprint, shape ``(num_worlds,)``
    :param device: ``cpu``, ``cuda`` or ``cuda:1``
    :param seed: of everything random
    :raises TaskError: worlds differ in the structure of their models, or MuJoCo Warp is not installed
    """

    contacts: int
    """Memory for this many contacts per world, on average over the worlds."""
    constraints: int
    """Memory for this many constraint rows in each world."""
    render_mode: str | None = None
    """Worlds are not rendered."""

    def __init__(
        self,
        blueprints: Sequence[Blueprint],
        blueprint_of_world: NDArray[Any],
        device: str | torch.device = "cuda",
        seed: int = 0,
    ) -> None:
        self.blueprints, self.blueprint_of_world = blueprints, blueprint_of_world
        models = [blueprint.model for blueprint in blueprints]
        self.physics = Physics(models, blueprint_of_world, device, self.contacts, self.constraints)
        self.device, self.num_worlds = self.physics.device, self.physics.num_worlds
        first = blueprints[0]
        self.observation_space, self.action_space = first.observation_space, first.action_space
        self.time_limit = first.time_limit
        self.generator = torch.Generator(self.device)
        self.seed(seed)
        self._elapsed = torch.zeros(self.num_worlds, dtype=torch.int32, device=self.device)
        self._reported = 0
        self._failed = torch.zeros((), dtype=torch.int64, device=self.device)
        self._read_interface_shifts()

    def per_world(self, values: Sequence[object] | NDArray[Any], dtype: torch.dtype = torch.float32) -> Tensor:
        """A value of each blueprint, laid out by world.

        :param values: one for each blueprint: numbers, or arrays of one shape
        :return: shape ``(num_worlds, ...)``
        """
        return torch.as_tensor(np.asarray(values)[self.blueprint_of_world], dtype=dtype, device=self.device)

    def _read_interface_shifts(self) -> None:
        """Shifts of observations and of the actions' arrival, for each world, see ``daft_rl.envs.wrappers``."""
        shifts = [blueprint.shift for blueprint in self.blueprints]
        shape = self.observation_space.shape
        self._shifts_observations = any(
            shift.observation_noise or shift.observation_offset or shift.observation_scale != 1.0 for shift in shifts
        )
        self._noisy = any(shift.observation_noise for shift in shifts)
        self._scale = self.per_world([[shift.observation_scale] for shift in shifts])
        self._noise = self.per_world([[shift.observation_noise] for shift in shifts])
        self._offset = self.per_world(
            [
                shift.observation_offset
                * np.random.default_rng(OFFSET_SEED + shift.observation_draw).standard_normal(shape)
                for shift in shifts
            ]
        )
        if self._shifts_observations:
            self.observation_space = spaces.Box(-np.inf, np.inf, shape, self.observation_space.dtype)  # type: ignore[arg-type]
        longest = max(shift.action_delay for shift in shifts)
        self._delay = self.per_world([shift.action_delay for shift in shifts], torch.int64)
        size = (longest + 1, self.num_worlds, *(self.action_space.shape or ()))
        self._sent = torch.zeros(size, device=self.device)  # row 0 was sent last
        self._each = torch.arange(self.num_worlds, device=self.device)

    # -- what a family adds ---------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def blueprint(cls, shift: Any, *args: Any, **kwargs: Any) -> Blueprint:
        """Read what worlds need from the family's C environment.

        :param shift: a shift of the family
        :param kwargs: keywords of the task's entry point, see :class:`daft_rl.envs.registry.Task`
        """

    @abstractmethod
    def restart(self, rows: Tensor) -> Tensor:
        """Begin a new episode in some worlds, and leave the others as they are.

        :param rows: Booleans, shape ``(num_worlds,)``; do not wait for the device to read them
        :return: first observations, shape ``(num_worlds, observation size)``; of other worlds they have no meaning
        """

    @abstractmethod
    def move(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Move every world by one action.

        :param action: shape ``(num_worlds, action size)``, ``float32``, within the action space
        :return: observations, rewards, terminations, and further values by their name in ``info``
        """

    # -- what a batch does ----------------------------------------------------------------------------

    def seed(self, seed: int) -> None:
        """Seed everything random."""
        self.generator.manual_seed(seed)

    def reset(self) -> Tensor:
        """Begin a new episode in every world.

        :return: observations, shape ``(num_worlds, observation size)``, ``float32``
        """
        self._elapsed.zero_()
        self._sent.zero_()
        return self._shift(self.restart(torch.ones(self.num_worlds, dtype=torch.bool, device=self.device)))

    def step(self, action: Tensor) -> Step:
        """Step every world, and restart those whose episodes end.

        :param action: shape ``(num_worlds, action size)``, ``float32``
        """
        observation, reward, terminated, extras = self.move(self._arriving(action))
        broken = ~(torch.isfinite(observation).all(1) & torch.isfinite(reward))
        self._failed += broken.sum()
        observation = torch.where(broken[:, None], 0.0, observation)  # the episode ends, and no buffer sees the values
        reward, terminated = torch.where(broken, 0.0, reward), terminated | broken
        self._elapsed += 1
        done = terminated | (self._elapsed >= self.time_limit)
        final = self._shift(observation)
        self._elapsed = torch.where(done, 0, self._elapsed)
        self._sent = torch.where(done[:, None], 0.0, self._sent)
        following = torch.where(done[:, None], self._shift(self.restart(done)), final)
        return Step(following, reward, terminated, done & ~terminated, final, extras)

    def check(self) -> None:
        """Read the guards from the device. Call it once per rollout: it waits for the device.

        Episodes that ended because a state was not finite get a warning, as MuJoCo's C code gives.

        :raises SimulationError: forces were lost, see :meth:`daft_rl.envs.cuda.physics.Physics.check`
        """
        self.physics.check()
        failures = self.failures()
        if failures > self._reported:
            message = f"{failures - self._reported} episodes ended because a state was not finite ({failures} so far)."
            warnings.warn(DaftWarning(message), stacklevel=2)
            self._reported = failures

    def failures(self) -> int:
        """Episodes ended so far because a state was not finite."""
        return int(self._failed)

    def state_dict(self) -> dict[str, Any]:
        """The state of all worlds, as plain data and arrays: that of the physics, and every tensor kept here."""
        tensors = {name: np.array(value.cpu()) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return {
            "physics": self.physics.state_dict(),
            "tensors": tensors,
            "generator": np.array(self.generator.get_state()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Between kinds of devices everything carries over but random numbers."""
        self.physics.load_state_dict(state["physics"])
        for name, value in state["tensors"].items():
            getattr(self, name).copy_(torch.as_tensor(value))
        generator = torch.as_tensor(state["generator"])
        if generator.shape == self.generator.get_state().shape:
            self.generator.set_state(generator)

    def _arriving(self, action: Tensor) -> Tensor:
        """The actions that arrive now: those of as many steps ago as a world's delay says."""
        if len(self._sent) == 1:
            return action
        self._sent = torch.cat((action[None], self._sent[:-1]))
        return self._sent[self._delay, self._each]

    def _shift(self, observation: Tensor) -> Tensor:
        if not self._shifts_observations:
            return observation
        shifted = observation * self._scale + self._offset
        if not self._noisy:
            return shifted
        noise = torch.randn(shifted.shape, generator=self.generator, device=self.device)
        return shifted + self._noise * noise
