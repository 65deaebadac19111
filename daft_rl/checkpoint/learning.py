"""The state of an SB3 algorithm between two rollouts, beside its optimizers' moments, buffer and environment."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise, VectorizedActionNoise

__all__ = ["LearningState"]

COUNTERS = (
    *("num_timesteps", "_n_updates", "_episode_num", "_n_calls", "exploration_rate", "_current_progress_remaining"),
)
"""Attributes of SB3's algorithms that count. No algorithm has all of them."""
LAST = ("_last_obs", "_last_original_obs", "_last_episode_starts")
"""What the next step begins with."""
MATRICES = ("exploration_mat", "exploration_matrices")
"""The noise of gSDE, drawn once per rollout."""


class LearningState:
    """Takes out the state of an algorithm object at the start of a rollout, and puts it back there.

    :param model: any algorithm of SB3 or sb3-contrib, while it learns
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        self.model: Any = model

    def state_dict(self) -> dict[str, Any]:
        """What learning needs to go on."""
        model = self.model
        return {
            "counters": {name: getattr(model, name) for name in COUNTERS if hasattr(model, name)},
            "policy": dict(model.policy.state_dict()),
            "variables": self._variables(),
            "entropy": self._entropy_moments(),
            "last": {name: getattr(model, name) for name in LAST},
            "episodes": [dict(episode) for episode in model.ep_info_buffer or ()],
            "successes": list(model.ep_success_buffer or ()),
            "noise": [noise.noise_prev for noise in self._noises()],
            "matrices": {name: getattr(self._matrices(), name, None) for name in MATRICES},
            "logged": self._logged(),
            "elapsed": time.time_ns() - model.start_time,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        model = self.model
        for name, value in (state["counters"] | state["last"]).items():
            setattr(model, name, value)
        model.policy.load_state_dict(state["policy"])
        for name, tensor in self._variables().items():
            tensor.copy_(state["variables"][name])
        if state["entropy"] is not None:
            self._load_entropy_moments(state["entropy"])
        model.ep_info_buffer = deque(state["episodes"], maxlen=model._stats_window_size)
        model.ep_success_buffer = deque(state["successes"], maxlen=model._stats_window_size)
        for noise, previous in zip(self._noises(), state["noise"], strict=True):
            noise.noise_prev = previous
        for name, value in state["matrices"].items():
            if value is not None:
                setattr(self._matrices(), name, value.to(model.device))
        for name, (value, count, excluded) in state["logged"].items():
            model.logger.name_to_value[name] = value
            model.logger.name_to_count[name], model.logger.name_to_excluded[name] = count, tuple(excluded)
        model.start_time = time.time_ns() - state["elapsed"]

    def _variables(self) -> dict[str, torch.Tensor]:
        """Loose tensors that are learnt: the logarithm of SAC's entropy coefficient."""
        tensor = getattr(self.model, "log_ent_coef", None)
        return {} if tensor is None else {"log_ent_coef": tensor}

    def _entropy_moments(self) -> dict[str, Any] | None:
        optimizer = getattr(self.model, "ent_coef_optimizer", None)
        return None if optimizer is None else optimizer.state_dict()["state"]

    def _load_entropy_moments(self, moments: dict[str, Any]) -> None:
        optimizer = self.model.ent_coef_optimizer
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})

    def _noises(self) -> list[OrnsteinUhlenbeckActionNoise]:
        """The exploration noise that remembers; Gaussian noise does not."""
        noise = getattr(self.model, "action_noise", None)
        every = noise.noises if isinstance(noise, VectorizedActionNoise) else [noise]
        return [one for one in every if isinstance(one, OrnsteinUhlenbeckActionNoise)]

    def _matrices(self) -> Any:
        """The distribution that holds the matrices of gSDE, if the policy has one."""
        for owner in (self.model.policy, getattr(self.model, "actor", None)):
            distribution = getattr(owner, "action_dist", None)
            if isinstance(distribution, StateDependentNoiseDistribution):
                return distribution
        return None

    def _logged(self) -> dict[str, Any]:
        """Values that were recorded and will be written with the next ones."""
        logger = self.model.logger
        return {
            name: (value, logger.name_to_count[name], logger.name_to_excluded[name])
            for name, value in list(logger.name_to_value.items())
            if isinstance(value, bool | int | float | np.generic)
        }
