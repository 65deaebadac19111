"""Changes of observations and actions, for any simulator."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from daft_rl.envs.shift import Shift
from daft_rl.errors import TaskError

__all__ = ["ActionDelay", "ObservationShift", "shift_interface"]

OFFSET_SEED = 20240220
"""The offset is part of the task, not of the episode: the same for everybody."""


class ObservationShift(gym.ObservationWrapper[np.ndarray, Any, np.ndarray], gym.utils.RecordConstructorArgs):
    """``observation * scale + offset + noise``.

    :param env: an environment with a ``Box`` observation
    :param noise: standard deviation of Gaussian noise, drawn from the environment's own generator
    :param offset: standard deviation from which one constant offset per entry is drawn, always the same
    :param scale: factor on every entry
    :param draw: which of all offsets
    """

    def __init__(
        self, env: gym.Env, noise: float = 0.0, offset: float = 0.0, scale: float = 1.0, draw: int = 0
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, noise=noise, offset=offset, scale=scale, draw=draw)
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise TaskError(f"A shift of observations needs a Box of floating-point numbers, got {space}.")
        self.noise, self.scale = noise, scale
        self.offset = offset * np.random.default_rng(OFFSET_SEED + draw).standard_normal(space.shape)
        self.observation_space = spaces.Box(-np.inf, np.inf, space.shape, space.dtype)  # type: ignore[arg-type]

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """
        :param observation: what the simulator gives, shape ``observation_space.shape``
        :return: what the agent sees, same shape and dtype
        """
        shifted = observation * self.scale + self.offset
        if self.noise:
            shifted = shifted + self.noise * self.np_random.standard_normal(observation.shape)
        return shifted.astype(observation.dtype)


class ActionDelay(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Actions arrive ``steps`` steps late; at the start of an episode zeros arrive."""

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
        """Take the action given ``steps`` steps ago; see :meth:`gymnasium.Env.step`."""
        self._queue.append(np.array(action)[()])  # callers reuse their arrays; a discrete action stays a number
        return self.env.step(self._queue.popleft())


def shift_interface(env: gym.Env, shift: Shift) -> gym.Env:
    """Wrap ``env`` in what the shift says of observations and actions, and in nothing more."""
    if shift.action_delay:
        env = ActionDelay(env, shift.action_delay)
    if shift.observation_noise or shift.observation_offset or shift.observation_scale != 1.0:
        env = ObservationShift(
            env, shift.observation_noise, shift.observation_offset, shift.observation_scale, shift.observation_draw
        )
    return env
