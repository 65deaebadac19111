"""A replay buffer on the device, which a captured gradient step can sample from."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from daft_rl.rollout.device.wrappers import Normalization, normalize, scale

__all__ = ["DeviceReplayBuffer", "SampleNormalization"]

MANY = 2**62
"""Random numbers below it, modulo the number of transitions, are uniform to one part in 10**12."""


class SampleNormalization:
    """What ``VecNormalize`` does to samples. Its tensors stay where they are, so that a graph can read them.

    :param normalization: whose statistics it takes
    """

    def __init__(self, normalization: Normalization) -> None:
        self.normalizer: Any = normalization.wrapper
        self._mean, self._var, self._return_var = (values.clone() for values in normalization.statistics())

    def refresh(self, normalization: Normalization) -> None:
        """Take the statistics that ``VecNormalize`` has now."""
        for own, now in zip((self._mean, self._var, self._return_var), normalization.statistics(), strict=True):
            own.copy_(now)

    def observation(self, observation: Tensor) -> Tensor:
        """Normalize observations, shape ``(batch, observation size)``."""
        if not self.normalizer.norm_obs:
            return observation
        return normalize(self.normalizer, observation, self._mean, self._var)

    def reward(self, reward: Tensor) -> Tensor:
        """Scale rewards, shape ``(batch, 1)``."""
        return scale(self.normalizer, reward, self._return_var)


class DeviceReplayBuffer(BaseBuffer):
    """SB3's replay buffer with its contents on the device.

    A transition takes ``4 * (2 * observation size + action size + 2)`` bytes: a million of Ant's take 0.9 GB.

    :param buffer_size: transitions of all worlds together
    :param observation_space: vectors
    :param action_space: vectors
    :param device: where the worlds are
    :param n_envs: number of worlds
    :param handle_timeout_termination: whether an episode that the time limit ended goes on for the critic
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str,
        n_envs: int,
        handle_timeout_termination: bool = True,
    ) -> None:
        super().__init__(max(buffer_size // n_envs, 1), observation_space, action_space, device, n_envs)
        self.handle_timeout_termination = handle_timeout_termination
        rows = (self.buffer_size, n_envs)
        self.observations, self.next_observations = (
            torch.zeros(*rows, *self.obs_shape, device=self.device) for _ in range(2)
        )
        self.actions = torch.zeros(*rows, self.action_dim, device=self.device)
        self.rewards, self.dones = (torch.zeros(rows, device=self.device) for _ in range(2))
        self._count = torch.zeros((), dtype=torch.int64, device=self.device)
        """Transitions that it holds, where a graph can read it."""

    def add(  # type: ignore[override]
        self,
        observation: Tensor,
        next_observation: Tensor,
        action: Tensor,
        reward: Tensor,
        terminated: Tensor,
        truncated: Tensor,
    ) -> None:
        """Add one step of all worlds; the first dimension of every tensor is the number of worlds.

        :param next_observation: what the action led to, before any restart
        :param action: between -1 and 1
        :param terminated: Booleans: the task ended the episode
        :param truncated: Booleans: the time limit ended it, and the task did not
        """
        done = terminated if self.handle_timeout_termination else terminated | truncated
        row = self.pos
        self.observations[row].copy_(observation)
        self.next_observations[row].copy_(next_observation)
        self.actions[row].copy_(action)
        self.rewards[row].copy_(reward)
        self.dones[row].copy_(done)
        self.pos = (row + 1) % self.buffer_size
        self.full = self.full or self.pos == 0
        self._count.fill_(self.size() * self.n_envs)

    def reset(self) -> None:
        """Empty the buffer."""
        super().reset()
        self._count.zero_()

    def sample(self, batch_size: int, env: SampleNormalization | None = None) -> ReplayBufferSamples:  # type: ignore[override]
        """Transitions drawn uniformly, with replacement, by the device's own random numbers.

        How many there are is read on the device, so that a captured call follows the growth of the buffer.

        :param env: how to normalize them
        """
        rows = torch.randint(MANY, (batch_size,), device=self.device) % self._count
        return self._get_samples(rows, env)

    def _get_samples(self, batch_inds: Tensor, env: SampleNormalization | None = None) -> ReplayBufferSamples:  # type: ignore[override]
        def take(values: Tensor) -> Tensor:
            return values.flatten(0, 1).index_select(0, batch_inds)

        observations, following = take(self.observations), take(self.next_observations)
        rewards, dones = take(self.rewards).unsqueeze(1), take(self.dones).unsqueeze(1)
        if env is not None:
            observations, following = env.observation(observations), env.observation(following)
            rewards = env.reward(rewards)
        return ReplayBufferSamples(observations, take(self.actions), following, dones, rewards)
