"""PPO's loss for a diagonal Gaussian policy as one autograd function."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import mse_loss

__all__ = ["ClippedObjective", "Coefficients"]

LOG_2_PI = math.log(2 * math.pi)


class Coefficients(NamedTuple):
    """What weighs and limits the parts of the loss."""

    clip_range: float
    clip_range_vf: float | None
    entropy: float
    value: float


class ClippedObjective(torch.autograd.Function):
    """The loss, and as a vector without gradient: the policy's loss, the value's, the entropy's, the approximate KL
    divergence and the share of clipped ratios, as SB3 logs them."""

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, log_std: Tensor, values: Tensor, batch: Any, advantages: Tensor, by: Coefficients
    ) -> tuple[Tensor, Tensor]:
        size = mean.shape[1]
        scaled = (batch.actions - mean) * (-log_std).exp()
        log_prob = scaled.square().sum(1).mul_(-0.5).sub_(log_std.sum() + 0.5 * size * LOG_2_PI)
        log_ratio = log_prob.sub_(batch.old_log_prob)
        ratio = log_ratio.exp()
        gain = advantages * ratio
        clipped = advantages * ratio.clamp(1 - by.clip_range, 1 + by.clip_range)
        policy_loss = -torch.min(gain, clipped).mean()
        predicted, moves = values, None
        if by.clip_range_vf is not None:
            change = values - batch.old_values
            predicted = batch.old_values + change.clamp(-by.clip_range_vf, by.clip_range_vf)
            moves = change.abs() <= by.clip_range_vf
        value_loss = mse_loss(batch.returns, predicted)
        entropy_loss = -(log_std.sum() + 0.5 * size * (1 + LOG_2_PI))
        divergence = (ratio - 1 - log_ratio).mean()
        outside = ((ratio - 1).abs() > by.clip_range).float().mean()
        loss = policy_loss + by.entropy * entropy_loss + by.value * value_loss
        ctx.save_for_backward(scaled, log_std, gain, gain <= clipped, predicted - batch.returns, moves)
        ctx.by = by
        logged = torch.stack([policy_loss, value_loss, entropy_loss, divergence, outside])
        ctx.mark_non_differentiable(logged)
        return loss, logged

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled, log_std, gain, follows, errors, moves = ctx.saved_tensors
        by, share = ctx.by, to_loss / len(gain)
        to_log_prob = (gain * follows).mul_(-share)[:, None]
        weighted = scaled * to_log_prob
        to_mean = weighted * (-log_std).exp()
        to_log_std = (weighted * scaled).sum(0).sub_(to_log_prob.sum()).sub_(by.entropy * to_loss)
        to_values = errors * (2 * by.value * share)
        return to_mean, to_log_std, to_values if moves is None else to_values * moves, None, None, None
