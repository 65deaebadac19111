"""Changes of observations and actions for any simulator."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from daft_rl.envs.names import UnknownNamesError, observation_names
from daft_rl.envs.shift import Shift
from daft_rl.errors import TaskError

__all__ = ["ActionDelay", "MissingSensors", "ObservationShift", "shift_interface"]

OFFSET_SEED = 20240220
"""The offset belongs to the task: it is the same in every episode and every run."""


class ObservationShift(gym.ObservationWrapper[NDArray[Any], Any, NDArray[Any]], gym.utils.RecordConstructorArgs):
    """``observation * scale + offset + noise``.

    :param env: an environment with a ``Box`` observation
    :param noise: standard deviation of Gaussian noise, drawn from the environment's own generator
    :param offset: standard deviation of a constant offset per entry, which depends on ``draw`` only
    :param scale: factor on every entry
    :param draw: number of the draw of the offset
    :raises TaskError: the observation is no ``Box`` of floating-point numbers
    """

    def __init__(
        self, env: gym.Env, noise: float = 0.0, offset: float = 0.0, scale: float = 1.0, draw: int = 0
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, noise=noise, offset=offset, scale=scale, draw=draw)
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise TaskError(f"shift.observation_*: expected a Box of floating-point observations, got {space}.")
        self.noise, self.scale = noise, scale
        self.offset = offset * np.random.default_rng(OFFSET_SEED + draw).standard_normal(space.shape)
        self.observation_space = spaces.Box(-np.inf, np.inf, space.shape, space.dtype)  # type: ignore[arg-type]

    def observation(self, observation: NDArray[Any]) -> NDArray[Any]:
        """
        :param observation: the simulator's observation, shape ``observation_space.shape``
        :return: the agent's observation, same shape and dtype
        """
        shifted = observation * self.scale + self.offset
        if self.noise:
            shifted = shifted + self.noise * self.np_random.standard_normal(observation.shape)
        return shifted.astype(observation.dtype)


class ActionDelay(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Delays actions. Zeros arrive at the start of an episode.

    :param env: any environment
    :param steps: number of steps by which actions arrive late
    """

    def __init__(self, env: gym.Env, steps: int) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, steps=steps)
        super().__init__(env)
        self.steps = steps
        self._queue: deque[Any] = deque()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see :meth:`gymnasium.Env.reset`."""
        zero = np.zeros(self.action_space.shape or (), self.action_space.dtype)[()]
        self._queue = deque([zero] * self.steps)
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take the action of ``steps`` steps ago. See :meth:`gymnasium.Env.step`."""
        self._queue.append(np.array(action)[()])  # copy: callers reuse their arrays. A discrete action stays a number
        return self.env.step(self._queue.popleft())


class MissingSensors(gym.ObservationWrapper[NDArray[Any], Any, NDArray[Any]], gym.utils.RecordConstructorArgs):
    """Leaves out entries of the observation. It tells the names of those that stay.

    :param env: an environment with a vector as observation, whose entries have names (:mod:`daft_rl.envs.names`)
    :param missing: names of entries, or patterns of names
    :raises TaskError: the observation is no vector, its entries have no names, a name does not exist, or none is left
    """

    def __init__(self, env: gym.Env, missing: Sequence[str]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, missing=missing)
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise TaskError(f"shift.missing_sensors: expected a vector as observation, got {space}.")
        try:
            names = observation_names(env)
        except UnknownNamesError as error:
            raise TaskError(f"shift.missing_sensors: {error}") from error
        gone = {name for pattern in missing for name in _matching(pattern, names)}
        self.kept = np.array([i for i, name in enumerate(names) if name not in gone], int)
        """Indices of the entries that stay."""
        if not len(self.kept):
            raise TaskError(f"shift.missing_sensors: {list(missing)} leaves no entry of the observation.")
        self.observation_names = [names[i] for i in self.kept]
        self.observation_space = spaces.Box(space.low[self.kept], space.high[self.kept], dtype=space.dtype)  # type: ignore[arg-type]

    def observation(self, observation: NDArray[Any]) -> NDArray[Any]:
        """
        :param observation: all entries, shape ``(entries,)``
        :return: those that stay
        """
        return observation[self.kept]


def _matching(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that a pattern means. Many have brackets, ``force[0]``, so a name means itself first.

    :raises TaskError: there is none
    """
    found = [name for name in names if name == pattern] or [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise TaskError(f"shift.missing_sensors: '{pattern}' matches no name. What exists: {', '.join(names)}.")
    return found


def shift_interface(env: gym.Env, shift: Shift) -> gym.Env:
    """Wrap an environment in the shift's changes of observations and actions, if there are any."""
    if shift.action_delay:
        env = ActionDelay(env, shift.action_delay)
    if shift.observation_noise or shift.observation_offset or shift.observation_scale != 1.0:
        env = ObservationShift(
            env, shift.observation_noise, shift.observation_offset, shift.observation_scale, shift.observation_draw
        )
    if shift.missing_sensors:
        env = MissingSensors(env, shift.missing_sensors)
    return env
