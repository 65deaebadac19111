"""Actions of a squashed Gaussian and their log-probabilities as one autograd function."""

from __future__ import annotations

import math
from typing import Any

import torch
from sb3_contrib.crossq import policies as crossq
from sb3_contrib.tqc import policies as tqc
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.sac import policies as sac
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["act"]

METHODS = ("get_action_dist_params", "action_log_prob")
KNOWN = [(actor.get_action_dist_params, actor.action_log_prob) for actor in (sac.Actor, tqc.Actor, crossq.Actor)]
"""A user's actor that has one of these methods of its own, in its class or put on the object, is asked itself."""
HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


class SquashedGaussian(torch.autograd.Function):
    """``tanh(mean + std * noise)`` and its log-probability.

    SB3 computes the log-probability from the action, as ``-((u - mean) / std)^2 / 2`` with ``u = mean + std * noise``:
    that is ``-noise^2 / 2``, which has no gradient.
    """

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_std: Tensor, noise: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        clipped = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        std = clipped.exp()
        action = torch.addcmul(mean, std, noise).tanh_()
        slope = 1 - action.square()
        room = slope + epsilon
        log_prob = torch.addcmul(clipped, noise, noise, value=0.5).add_(room.log()).sum(1)
        log_prob = log_prob.neg_().sub_(HALF_LOG_2_PI * action.shape[1])
        ctx.save_for_backward(action, std, noise, slope, room, log_std)
        return action, log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_action: Tensor, to_log_prob: Tensor) -> tuple[Tensor | None, ...]:
        action, std, noise, slope, room, log_std = ctx.saved_tensors
        by_row = to_log_prob[:, None]
        # d log_prob / d u = 2 a (1 - a^2) / (1 - a^2 + epsilon)
        to_mean = torch.addcdiv(to_action, action * by_row, room, value=2).mul_(slope)
        to_log_std = torch.addcmul(-by_row, to_mean, std * noise)
        to_log_std *= (log_std >= LOG_STD_MIN) & (log_std <= LOG_STD_MAX)
        return to_mean, to_log_std, None, None


def act(actor: Any, observations: Any) -> tuple[Tensor, Tensor]:
    """What SB3's ``actor.action_log_prob`` gives, up to rounding, from the same random numbers.

    :param actor: of SAC, TQC or CrossQ
    :param observations: shape ``(batch, ...)``
    :return: actions, shape ``(batch, action size)``, and their log-probabilities, shape ``(batch,)``
    """
    distribution, cls = actor.action_dist, type(actor)
    known = (cls.get_action_dist_params, cls.action_log_prob) in KNOWN and vars(actor).keys().isdisjoint(METHODS)
    if actor.use_sde or not known or type(distribution) is not SquashedDiagGaussianDistribution:
        return actor.action_log_prob(observations)
    latent = actor.latent_pi(actor.extract_features(observations, actor.features_extractor))
    mean, log_std = actor.mu(latent), actor.log_std(latent)
    return SquashedGaussian.apply(mean, log_std, torch.randn_like(mean), distribution.epsilon)
