"""The diagonal Gaussian of SB3's policies without a distribution of PyTorch behind it."""

from __future__ import annotations

import math

import torch
from stable_baselines3.common.distributions import DiagGaussianDistribution
from torch import Tensor
from torch.distributions import Normal

__all__ = ["QuickGaussian"]

LOG_2_PI = math.log(2 * math.pi)


class QuickGaussian(DiagGaussianDistribution):
    """A Gaussian that computes with its mean and standard deviation. Building and checking a ``Normal`` takes as long
    as a policy's networks for a few environments."""

    mean: Tensor
    log_std: Tensor

    def proba_distribution(self, mean_actions: Tensor, log_std: Tensor) -> QuickGaussian:
        """
        :param mean_actions: shape ``(batch, action size)``
        :param log_std: shape ``(action size,)``, or ``(batch, action size)``
        :raises ValueError: one of them is not a number
        """
        self.mean, self.log_std = mean_actions, log_std.clone()  # a copy of this object outlives the next step
        if math.isnan(float(mean_actions.detach().sum() + log_std.detach().sum())):
            _ = self.distribution  # refuses what is not a number, as SB3's does
        return self

    @property
    def distribution(self) -> Normal:  # type: ignore[override]
        """PyTorch's, for whoever asks."""
        return Normal(self.mean, self.log_std.exp().expand_as(self.mean))

    def log_prob(self, actions: Tensor) -> Tensor:
        """
        :param actions: shape ``(batch, action size)``
        :return: shape ``(batch,)``
        """
        scaled = (actions - self.mean) * (-self.log_std).exp()
        return -0.5 * scaled.square().sum(1) - (self.log_std.sum(-1) + 0.5 * LOG_2_PI * scaled.shape[1])

    def entropy(self) -> Tensor:
        """
        :return: shape ``(batch,)``
        """
        return (self.log_std.sum(-1) + 0.5 * (1 + LOG_2_PI) * self.mean.shape[1]).expand(len(self.mean))

    def sample(self) -> Tensor:
        """
        :return: shape ``(batch, action size)``
        """
        return torch.addcmul(self.mean, self.log_std.exp(), torch.randn_like(self.mean))

    def mode(self) -> Tensor:
        """
        :return: shape ``(batch, action size)``
        """
        return self.mean
