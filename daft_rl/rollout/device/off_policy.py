"""SAC, TD3, DDPG, TQC and CrossQ on the device: experience, replay buffer and gradient steps."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from daft_rl.errors import AgentError, ConfigError
from daft_rl.learner.gradient_steps import gradient_step
from daft_rl.rollout.device.collection import DeviceEnv, find_device_env, with_mixin, without_checks
from daft_rl.rollout.device.replay import DeviceReplayBuffer, SampleNormalization
from daft_rl.rollout.device.updates import Updates
from daft_rl.rollout.device.wrappers import EpisodeRecords

__all__ = ["DeviceLearning", "learn_off_policy"]

READ_EVERY = 100
"""Steps of all worlds after which the host reads which episodes ended, and logs."""


class DeviceLearning:
    """What a model that learns off-policy keeps on the device during one call of ``learn``.

    :param model: SAC, TD3, DDPG, TQC or CrossQ
    :param env: its worlds
    :raises ConfigError: a setting that has no counterpart on the device
    """

    def __init__(self, model: BaseAlgorithm, env: DeviceEnv) -> None:
        self.env = env
        self.steps_unread = 0
        env.load(model)
        self.buffer = _device_buffer(model, env.worlds.num_worlds)
        normalization = env.normalization
        self.normalization = None if normalization is None else SampleNormalization(normalization)
        self.updates = Updates(model, partial(self.buffer.sample, env=self.normalization))
        self.noise = _device_noise(model)

    def act(self, model: BaseAlgorithm, at_random: bool) -> Tensor:
        """Actions between -1 and 1 for all worlds, shape ``(num_worlds, action size)``.

        :param at_random: uniformly, in place of the policy's
        """
        worlds = self.env.worlds
        if at_random:
            shape = (worlds.num_worlds, *(worlds.action_space.shape or ()))
            action = torch.rand(shape, device=model.device) * 2.0 - 1.0
        else:
            action = model.policy._predict(self.env.observation, deterministic=False)  # type: ignore[arg-type]
        if self.noise is None:
            return action
        mean, std = self.noise
        return (action + mean + std * torch.randn_like(action)).clamp(-1.0, 1.0)

    def step(self, action: Tensor) -> Tensor:
        """Step all worlds and remember the transitions.

        :param action: of :meth:`act`
        :return: rewards as the learner is given them, shape ``(num_worlds,)``
        """
        env = self.env
        observation = env.original_observation
        step = env.step(env.unscale(action))
        raw = env.original(step)
        self.buffer.add(observation, raw.final_observation, action, raw.reward, raw.terminated, raw.truncated)
        self.steps_unread += 1
        return step.reward

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Take gradient steps on minibatches of the buffer."""
        if self.normalization is not None and self.env.normalization is not None:
            self.normalization.refresh(self.env.normalization)
        self.updates.train(gradient_steps, batch_size)

    def read(self, model: BaseAlgorithm) -> None:
        """Tell the model, its wrappers and its log what happened. It waits for the device.

        :raises SimulationError: the simulation lost forces
        :raises AgentError: the updates diverged
        """
        self.steps_unread = 0
        before = _episodes(self.env)
        self.env.store(model)
        self.env.load(model)
        model._episode_num += _episodes(self.env) - before
        losses = self.updates.mean_losses()
        for name, value in losses.items():
            model.logger.record(f"train/{name}", value)
        if losses:
            model.logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
        if not all(math.isfinite(value) for value in losses.values()):
            raise AgentError(
                f"{type(model).__name__} diverged: losses are {losses}. Lower the learning rate, or take fewer "
                "gradient steps per step of all worlds.",
                arguments=("learning_rate", "gradient_steps"),
            )


class DeviceOffPolicy(BaseAlgorithm):
    """Mixed into the class of an algorithm object whose worlds are on its device."""

    on_device: DeviceLearning | None = None

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._setup_learn(*args, **kwargs)
        env = find_device_env(self)
        self.on_device = None if env is None else DeviceLearning(self, env)
        return prepared

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """As SB3 does, with tensors. The host reads the device once in :data:`READ_EVERY` steps, and logs then.

        Callbacks see tensors in ``locals``, and no ``infos``.
        """
        learning = self.on_device
        if learning is None:  # the user gave the model another environment
            return super().collect_rollouts(  # type: ignore[misc]
                env, callback, train_freq, replay_buffer, action_noise, learning_starts, log_interval
            )
        if train_freq.unit != TrainFrequencyUnit.STEP:
            raise ConfigError(f"train_freq={tuple(train_freq)} counts episodes; worlds on the device need steps.")
        self.policy.set_training_mode(False)
        if self.use_sde:
            self._reset_noise(env.num_envs)
        callback.on_rollout_start()
        for steps in range(train_freq.frequency):
            if self.use_sde and self.sde_sample_freq > 0 and steps % self.sde_sample_freq == 0:
                self._reset_noise(env.num_envs)
            with torch.no_grad(), without_checks():
                actions, _ = self._sample_action(learning_starts, action_noise, env.num_envs)
                rewards, dones = learning.step(actions), learning.env.episode_start
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                learning.read(self)
                return RolloutReturn((steps + 1) * env.num_envs, 0, continue_training=False)
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        callback.on_rollout_end()
        if learning.steps_unread >= READ_EVERY or self.num_timesteps >= self._total_timesteps:
            learning.read(self)
            if log_interval is not None:
                self.dump_logs()  # type: ignore[attr-defined]
        return RolloutReturn(train_freq.frequency * env.num_envs, 0, continue_training=True)

    def _reset_noise(self, num_envs: int) -> None:
        with torch.no_grad(), without_checks():
            self.actor.reset_noise(num_envs)  # type: ignore[attr-defined]

    def _sample_action(self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1) -> Any:
        """As SB3 does: random actions before ``learning_starts``. Both results are between -1 and 1."""
        if self.on_device is None:
            return super()._sample_action(learning_starts, action_noise, n_envs)  # type: ignore[misc]
        warm_up = self.num_timesteps < learning_starts and not (self.use_sde and self.use_sde_at_warmup)  # type: ignore[attr-defined]
        action = self.on_device.act(self, at_random=warm_up)
        return action, action

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """As the algorithm does, without waiting for the device."""
        if self.on_device is None:
            super().train(gradient_steps, batch_size)  # type: ignore[misc]
        else:
            self.on_device.train(gradient_steps, batch_size)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "on_device"]


def learn_off_policy(model: OffPolicyAlgorithm) -> bool:
    """Let a model collect and learn on the device, if its worlds are there. Call it before the model is adapted.

    :param model: SAC, TD3, DDPG, TQC or CrossQ; its class becomes a subclass of the same name, and plain SB3 opens its
        archives
    :return: whether it does so
    """
    plain = type(model).collect_rollouts is OffPolicyAlgorithm.collect_rollouts
    vectors = isinstance(model.observation_space, spaces.Box) and isinstance(model.action_space, spaces.Box)
    usual = model.replay_buffer_class is ReplayBuffer and not model.optimize_memory_usage
    if not (plain and vectors and usual) or find_device_env(model) is None:
        return False
    try:
        gradient_step(model)
    except AgentError:
        return False
    with_mixin(model, DeviceOffPolicy)
    return True


def _device_buffer(model: Any, num_worlds: int) -> DeviceReplayBuffer:
    """The model's buffer; a new one if it is SB3's own, or of another number of worlds."""
    buffer: Any = model.replay_buffer
    rows = max(model.buffer_size // num_worlds, 1)
    if not isinstance(buffer, DeviceReplayBuffer) or (buffer.buffer_size, buffer.n_envs) != (rows, num_worlds):
        buffer = DeviceReplayBuffer(
            model.buffer_size, model.observation_space, model.action_space, model.device, num_worlds,
            **model.replay_buffer_kwargs,
        )  # fmt: skip
        model.replay_buffer = buffer
    return buffer


def _device_noise(model: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation of the noise on actions."""
    noise = getattr(model.action_noise, "base_noise", model.action_noise)
    if noise is None:
        return None
    if type(noise) is not NormalActionNoise:
        raise ConfigError(
            f"action_noise={noise}: on the device it must be NormalActionNoise or None. Change it, or use another vec.",
            arguments=("action_noise", "vec"),
        )
    mean, std = (torch.as_tensor(v, dtype=torch.float32, device=model.device) for v in (noise._mu, noise._sigma))
    return mean, std


def _episodes(env: DeviceEnv) -> int:
    """Episodes that ``VecMonitor`` has counted."""
    return sum(wrapper.wrapper.episode_count for wrapper in env.wrappers if isinstance(wrapper, EpisodeRecords))
