"""What SB3's and our wrappers of environments do, with tensors of worlds."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from daft_rl.errors import ConfigError

if TYPE_CHECKING:  # worlds need Warp, which is not installed everywhere
    from daft_rl.envs.cuda.worlds import Step, Worlds

__all__ = ["EpisodeRecords", "Normalization", "Penalty", "TensorWrapper", "normalize", "scale"]


class TensorWrapper(ABC):
    """Does with tensors what a wrapper of environments does with arrays.

    :param wrapper: whose settings and state it takes
    :param worlds: what is wrapped
    """

    def __init__(self, wrapper: Any, worlds: Worlds) -> None:
        self.wrapper, self.worlds, self.device = wrapper, worlds, worlds.device

    @abstractmethod
    def load(self) -> None:
        """Take the state of the wrapper."""

    @abstractmethod
    def step(self, step: Step, done: Tensor) -> Step:
        """What the wrapper makes of a step.

        :param done: whether an episode ended, Booleans, shape ``(num_worlds,)``
        """

    @abstractmethod
    def store(self) -> None:
        """Give the state to the wrapper. It waits for the device."""

    def number(self, value: Any) -> Tensor:
        """A number or an array in float64, as NumPy counts."""
        return torch.as_tensor(value, dtype=torch.float64, device=self.device)


class EpisodeRecords(TensorWrapper):
    """``VecMonitor``: returns and lengths of episodes. :meth:`store` writes all that ended to its file at once."""

    ended: list[dict[str, Any]]
    """The episodes that ended between :meth:`load` and :meth:`store`."""

    def load(self) -> None:
        self._returns = torch.as_tensor(self.wrapper.episode_returns, device=self.device)
        self._lengths = torch.as_tensor(self.wrapper.episode_lengths, device=self.device)
        self._recorded: list[Tensor] = []
        self.ended = []

    def step(self, step: Step, done: Tensor) -> Step:
        self._returns = self._returns + step.reward
        self._lengths = self._lengths + 1
        names = [*self.wrapper.info_keywords, *({"is_success"} & step.extras.keys())]
        self._names = ["r", "l", *dict.fromkeys(names)]
        columns = [self._returns, self._lengths, *(step.extras[name] for name in self._names[2:])]
        self._recorded.append(torch.stack([done.float(), *(column.float() for column in columns)]))
        self._returns = torch.where(done, 0.0, self._returns)
        self._lengths = torch.where(done, 0, self._lengths)
        return step

    def store(self) -> None:
        monitor = self.wrapper
        monitor.episode_returns = self._returns.cpu().numpy()
        monitor.episode_lengths = self._lengths.cpu().numpy()
        if self._recorded:
            done, *columns = torch.stack(self._recorded, 1).cpu().numpy()
            seconds = round(time.time() - monitor.t_start, 6)
            ended = zip(*(column[done > 0] for column in columns), strict=True)
            self.ended = [dict(zip(self._names, values, strict=True)) | {"t": seconds} for values in ended]
        for episode in self.ended:
            episode["l"] = int(episode["l"])
        monitor.episode_count += len(self.ended)
        self._recorded = []
        if monitor.results_writer is not None and self.ended:
            fields = monitor.results_writer.logger.fieldnames
            rows = [{name: episode[name] for name in fields} for episode in self.ended]
            monitor.results_writer.logger.writerows(rows)
            monitor.results_writer.file_handler.flush()


class Penalty(TensorWrapper):
    """:class:`~daft_rl.rollout.lagrangian.Lagrangian`. Of finished episodes it keeps the number and the mean cost."""

    def load(self) -> None:
        constraint = self.wrapper
        self._multiplier = self.number(constraint.multiplier)
        self._sum, self._count = self.number(sum(constraint.costs)), self.number(len(constraint.costs))
        self._mean = self.number(np.nan if constraint.mean_cost is None else constraint.mean_cost)

    def step(self, step: Step, done: Tensor) -> Step:
        if not {"cost", "episode_cost"} <= step.extras.keys():
            raise ConfigError(
                "A limit on costs needs `cost`, and these worlds have none: set cost_limit=None.",
                arguments=("cost_limit",),
            )
        reward = (step.reward - self._multiplier * step.extras["cost"]) / (1.0 + self._multiplier)
        constraint = self.wrapper
        self._sum = self._sum + (done * step.extras["episode_cost"]).sum()
        self._count = self._count + done.sum()
        complete = self._count >= constraint.num_envs
        self._mean = torch.where(complete, self._sum / self._count, self._mean)
        raised = self._multiplier + constraint.rate * (self._mean / constraint.limit - 1.0)
        self._multiplier = torch.where(complete, raised.clamp(min=0.0), self._multiplier)
        self._sum, self._count = torch.where(complete, 0.0, self._sum), torch.where(complete, 0.0, self._count)
        return replace(step, reward=reward.float())

    def store(self) -> None:
        constraint = self.wrapper
        total, count, mean, constraint.multiplier = torch.stack(
            (self._sum, self._count, self._mean, self._multiplier)
        ).tolist()
        constraint.mean_cost = None if np.isnan(mean) else mean
        constraint.costs = [total / count] * int(count) if count else []


class _Moments:
    """SB3's ``RunningMeanStd`` as tensors."""

    def __init__(self, running: RunningMeanStd, wrapper: TensorWrapper) -> None:
        self.running, self.count = running, running.count
        self.mean, self.var = wrapper.number(running.mean), wrapper.number(running.var)

    def update(self, values: Tensor) -> None:
        """
        :param values: shape ``(num_worlds, ...)``
        """
        var, mean = torch.var_mean(values.double(), 0, correction=0)
        total = self.count + len(values)
        share = len(values) / total
        delta = mean - self.mean
        self.mean = self.mean + delta * share
        self.var = self.var + (var - self.var) * share + delta.square() * (share * self.count / total)
        self.count = total

    def store(self) -> None:
        self.running.mean, self.running.var = self.mean.cpu().numpy(), self.var.cpu().numpy()
        self.running.count = self.count


def normalize(normalizer: VecNormalize, observation: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Observations as ``VecNormalize`` makes them, ``float32``.

    :param normalizer: has the settings
    :param observation: shape ``(batch, observation size)``
    :param mean: of observations, shape ``(observation size,)``; likewise ``var``
    """
    centred = (observation - mean) / torch.sqrt(var + normalizer.epsilon)
    return centred.clamp(-normalizer.clip_obs, normalizer.clip_obs).float()


def scale(normalizer: VecNormalize, reward: Tensor, var: Tensor) -> Tensor:
    """Rewards as ``VecNormalize`` makes them, if it does, ``float32``.

    :param normalizer: has the settings
    :param var: the variance of returns
    """
    if not normalizer.norm_reward:
        return reward
    return (
        (reward / torch.sqrt(var + normalizer.epsilon)).clamp(-normalizer.clip_reward, normalizer.clip_reward).float()
    )


class Normalization(TensorWrapper):
    """``VecNormalize`` of observations and rewards."""

    first_observation: Tensor
    """The observation at :meth:`load`, not normalized."""
    original: Step | None = None
    """The last step, not normalized."""

    def load(self) -> None:
        normalizer = self.wrapper
        self._observations = _Moments(normalizer.obs_rms, self) if normalizer.norm_obs else None
        self._rewards = _Moments(normalizer.ret_rms, self)
        self._returns = self.number(normalizer.returns)
        self.first_observation = torch.as_tensor(normalizer.old_obs, dtype=torch.float32, device=self.device)

    def step(self, step: Step, done: Tensor) -> Step:
        normalizer = self.wrapper
        self.original = step
        if normalizer.training and self._observations is not None:
            self._observations.update(step.observation)
        if normalizer.training:
            self._returns = self._returns * normalizer.gamma + step.reward
            self._rewards.update(self._returns)
        self._returns = torch.where(done, 0.0, self._returns)
        return replace(
            step,
            observation=self._normalize(step.observation),
            final_observation=self._normalize(step.final_observation),
            reward=scale(self.wrapper, step.reward, self._rewards.var),
        )

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance of observations, and the variance of returns, ``float64``."""
        observations, returns = self._observations, self._rewards
        if observations is None:
            return returns.mean, returns.var, returns.var
        return observations.mean, observations.var, returns.var

    def _normalize(self, observation: Tensor) -> Tensor:
        moments = self._observations
        return observation if moments is None else normalize(self.wrapper, observation, moments.mean, moments.var)

    def store(self) -> None:
        normalizer = self.wrapper
        normalizer.returns = self._returns.cpu().numpy()
        if self.original is not None:
            normalizer.old_obs = self.original.observation.cpu().numpy()
            normalizer.old_reward = self.original.reward.cpu().numpy()
        if normalizer.training:
            self._rewards.store()
            if self._observations is not None:
                self._observations.store()
