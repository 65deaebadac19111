"""How much a policy explores when fine-tuning begins."""

from __future__ import annotations

import math

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.noise import NormalActionNoise

from daft_rl.agents.algorithms import find_algorithm
from daft_rl.errors import ConfigError

__all__ = ["bound_exploration"]


@torch.no_grad()
def bound_exploration(model: BaseAlgorithm, least: float | None = None, most: float | None = None) -> bool:
    """Bound the exploration of an agent, in place.

    A trained Gaussian policy hardly explores, and then cannot learn either. The deterministic policy does not change.
    Policies whose standard deviation depends on the state (SAC, gSDE) and policies with discrete actions are left as
    they are.

    :param model: any SB3 algorithm object
    :param least: least standard deviation of each action, in units of the action space. For TD3 and DDPG without action
        noise, the standard deviation of the noise that they get, in units of half the range. ``None`` is no bound
    :param most: greatest standard deviation of each action of a Gaussian policy; ``None`` is no bound
    :return: whether the agent explores in a way that bounds are for
    :raises ConfigError: a bound is not above 0
    """
    for name, bound in (("least", least), ("most", most)):
        if bound is not None and not (isinstance(bound, int | float) and 0 < bound < math.inf):
            raise ConfigError(f"{name}: expected a finite number above 0, or None, got {bound!r}.", arguments=(name,))
    by_noise = find_algorithm(model).explores_by_noise
    if least is not None and by_noise and getattr(model, "action_noise", None) is None:
        size = model.action_space.shape or ()
        model.action_noise = NormalActionNoise(np.zeros(size), np.full(size, least))  # type: ignore[attr-defined]
    gaussian = isinstance(getattr(model.policy, "action_dist", None), DiagGaussianDistribution)
    if gaussian:
        low, high = (-math.inf if least is None else math.log(least)), (math.inf if most is None else math.log(most))
        model.policy.log_std.clamp_(low, high)  # type: ignore[operator, union-attr]
    return gaussian or by_noise
