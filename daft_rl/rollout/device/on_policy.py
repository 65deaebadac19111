"""Rollouts of PPO, A2C and TRPO on the device. SB3's ``train`` learns from them as from its own."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from daft_rl.rollout.device.collection import DeviceEnv, find_device_env, with_mixin, without_checks

__all__ = ["DeviceRolloutBuffer", "DeviceRollouts", "collect_on_policy"]

CHUNK = 65_536
"""Most observations whose values are computed at once."""


class DeviceRolloutBuffer(RolloutBuffer):
    """SB3's rollout buffer with its contents on the device, first dimensions ``(buffer_size, n_envs)``.

    ``values`` and ``returns`` are NumPy arrays, as ``train`` logs them. Arguments are those of SB3's.
    """

    observations: Tensor  # type: ignore[assignment]
    final_observations: Tensor
    """What each action led to, before any restart."""
    actions: Tensor  # type: ignore[assignment]
    rewards: Tensor  # type: ignore[assignment]
    value_estimates: Tensor
    log_probs: Tensor  # type: ignore[assignment]
    advantages: Tensor  # type: ignore[assignment]
    episode_starts: Tensor  # type: ignore[assignment]
    truncated: Tensor

    def reset(self) -> None:
        """Make room on the device. A buffer that is full is begun again by ``pos = 0``."""
        steps, device = (self.buffer_size, self.n_envs), self.device
        self.observations = torch.zeros(*steps, *self.obs_shape, device=device)  # type: ignore[misc]
        self.final_observations = torch.zeros_like(self.observations)
        self.actions = torch.zeros(*steps, self.action_dim, device=device)
        for name in ("rewards", "value_estimates", "log_probs", "advantages"):
            setattr(self, name, torch.zeros(steps, device=device))
        for name in ("episode_starts", "truncated"):
            setattr(self, name, torch.zeros(steps, dtype=torch.bool, device=device))
        self.pos, self.full = 0, False

    @property
    def values(self) -> NDArray[Any]:  # type: ignore[override]
        """The estimates of the critic."""
        return self.value_estimates.cpu().numpy()

    @property
    def returns(self) -> NDArray[Any]:  # type: ignore[override]
        """What the critic learns."""
        return (self.advantages + self.value_estimates).cpu().numpy()

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Not SB3's; see :meth:`add_step`."""
        raise NotImplementedError("add_step takes tensors.")

    def add_step(self, **columns: Tensor) -> None:
        """Add one step of all worlds.

        :param columns: rows of the tensors by name, such as ``rewards``, shape ``(n_envs, ...)``
        """
        for name, rows in columns.items():
            getattr(self, name)[self.pos].copy_(rows.reshape(self.n_envs, *getattr(self, name).shape[2:]))
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def compute_returns_and_advantage(self, last_values: Tensor, dones: Tensor) -> None:  # type: ignore[override]
        """Generalized advantages as SB3 computes them.

        :param last_values: of the observations after the last step, shape ``(n_envs,)``
        :param dones: whether those begin an episode, Booleans, shape ``(n_envs,)``
        """
        starts = torch.cat((self.episode_starts[1:], dones[None]))
        goes_on = 1.0 - starts.float()
        following = torch.cat((self.value_estimates[1:], last_values.reshape(1, -1)))
        deltas = self.rewards + self.gamma * following * goes_on - self.value_estimates
        discounts = self.gamma * self.gae_lambda * goes_on
        advantage = torch.zeros_like(last_values)
        for step in reversed(range(self.buffer_size)):
            advantage = deltas[step] + discounts[step] * advantage
            self.advantages[step] = advantage

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Minibatches in random order.

        :param batch_size: ``None`` gives all at once
        """
        assert self.full
        tensors = (
            *(self.observations, self.actions, self.value_estimates, self.log_probs, self.advantages),
            self.advantages + self.value_estimates,
        )
        flat = [tensor.reshape(-1, *tensor.shape[2:]) for tensor in tensors]
        samples = self.buffer_size * self.n_envs
        for rows in torch.randperm(samples, device=self.device).split(batch_size or samples):
            yield RolloutBufferSamples(*(tensor[rows] for tensor in flat))


class DeviceRollouts(OnPolicyAlgorithm):
    """Mixed into the class of an algorithm object whose worlds are on its device."""

    rollout_buffer: DeviceRolloutBuffer

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """As SB3 does, with tensors. Nothing waits for the device until the rollout is complete.

        Callbacks see tensors in ``locals``, and no ``infos``.
        """
        worlds = find_device_env(self)
        if worlds is None:  # the user gave the model another environment
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        self.policy.set_training_mode(False)
        rollout_buffer = self._empty_buffer()
        if self.use_sde:
            self._reset_noise(env.num_envs)
        callback.on_rollout_start()
        worlds.load(self)
        for n_steps in range(n_rollout_steps):
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self._reset_noise(env.num_envs)
            rewards, dones = self._collect_step(worlds, rollout_buffer)
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                worlds.store(self)
                return False
        self._complete(worlds, rollout_buffer)
        worlds.store(self)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _reset_noise(self, num_envs: int) -> None:
        with without_checks():
            self.policy.reset_noise(num_envs)

    def _empty_buffer(self) -> DeviceRolloutBuffer:
        """The buffer; a new one if the model has SB3's own, or its settings changed."""
        expected = (self.n_steps, self.n_envs, self.gamma, self.gae_lambda)
        buffer = self.rollout_buffer
        found = (buffer.buffer_size, buffer.n_envs, buffer.gamma, buffer.gae_lambda)
        if not isinstance(buffer, DeviceRolloutBuffer) or found != expected:
            self.rollout_buffer = DeviceRolloutBuffer(
                *(self.n_steps, self.observation_space, self.action_space, self.device),
                gae_lambda=self.gae_lambda, gamma=self.gamma, n_envs=self.n_envs,
            )  # fmt: skip
        self.rollout_buffer.pos, self.rollout_buffer.full = 0, False
        return self.rollout_buffer

    @torch.no_grad()
    def _collect_step(self, worlds: DeviceEnv, buffer: DeviceRolloutBuffer) -> tuple[Tensor, Tensor]:
        """Act once in all worlds.

        :return: rewards and whether episodes ended
        """
        observation, episode_start = worlds.observation, worlds.episode_start
        with without_checks():  # `train` repeats them
            actions, values, log_probs = self.policy(observation)
        step = worlds.step(worlds.unscale(actions) if self.policy.squash_output else worlds.clip(actions))
        buffer.add_step(
            observations=observation, actions=actions, rewards=step.reward, value_estimates=values,
            log_probs=log_probs, episode_starts=episode_start,
            final_observations=step.final_observation, truncated=step.truncated,
        )  # fmt: skip
        return step.reward, worlds.episode_start

    @torch.no_grad()
    def _complete(self, worlds: DeviceEnv, buffer: DeviceRolloutBuffer) -> None:
        """Add what truncated episodes would have brought (SB3 issue #633), and compute advantages.

        The values of all final observations are computed at once: few large operations, in place of some in each step.
        """
        if buffer.truncated.any():
            final = buffer.final_observations.reshape(-1, *buffer.obs_shape)  # type: ignore[misc]
            values = torch.cat([self.policy.predict_values(chunk) for chunk in final.split(CHUNK)])
            buffer.rewards += self.gamma * values.reshape(buffer.rewards.shape) * buffer.truncated
        last = self.policy.predict_values(worlds.observation).flatten()  # type: ignore[arg-type]
        buffer.compute_returns_and_advantage(last, worlds.episode_start)


def collect_on_policy(model: OnPolicyAlgorithm) -> bool:
    """Let a model collect its rollouts on the device, if its worlds are there.

    :param model: PPO, A2C or TRPO; its class becomes a subclass of the same name, and plain SB3 opens its archives
    :return: whether it does so
    """
    plain = type(model).collect_rollouts is OnPolicyAlgorithm.collect_rollouts
    vectors = isinstance(model.observation_space, spaces.Box) and isinstance(model.action_space, spaces.Box)
    if not (plain and vectors) or find_device_env(model) is None:
        return False
    with_mixin(model, DeviceRollouts)
    return True
