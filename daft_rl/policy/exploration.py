"""STUB"""

from __future__ import annotations

import math

import numpy as np
import torch
from stable_baselines3 import TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.noise import NormalActionNoise

from daft_rl.errors import ConfigError


@torch.no_grad()
def bound_exploration(model: BaseAlgorithm, least: float | None, most: float | None = None) -> None:
    """Let a Gaussian policy explore again, since a trained one hardly does and then cannot learn either; or less.

    The deterministic policy does not change. Policies whose standard deviation depends on the state
    (SAC, gSDE) and those with discrete actions are left alone.

    :param model: any SB3 algorithm object
    :param least: standard deviation of each action, in units of the action space; for TD3 and DDPG without action
        noise, that of the noise they get, in units of half the range. ``None`` is no bound
    :param most: likewise, for Gaussian policies
    :raises ConfigError: a bound that is not above 0
    """
    for name, bound in (("exploration_std", least), ("most_exploration_std", most)):
        if bound is not None and not (isinstance(bound, int | float) and 0 < bound < math.inf):
            raise ConfigError(f"algo.{name}: expected a finite number above 0, or null, got {bound!r}.")
    if isinstance(model, TD3) and model.action_noise is None and least is not None:
        size = model.action_space.shape or ()
        model.action_noise = NormalActionNoise(np.zeros(size), np.full(size, least))
    if isinstance(getattr(model.policy, "action_dist", None), DiagGaussianDistribution):
        low, high = (-math.inf if least is None else math.log(least)), (math.inf if most is None else math.log(most))
        model.policy.log_std.clamp_(low, high)  # type: ignore[operator, union-attr]
