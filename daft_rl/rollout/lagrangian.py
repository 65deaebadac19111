"""A limit on the cost of an episode, for any algorithm: a Lagrangian penalty on the reward."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, unwrap_vec_wrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from daft_rl.errors import ConfigError

__all__ = ["Lagrangian", "find_constraint"]


class Lagrangian(VecEnvWrapper):
    """Gives the learner ``(reward - multiplier * cost) / (1 + multiplier)``.

    The multiplier rises while finished episodes cost more than the limit, and falls, not below zero, while they
    cost less (Ray et al., "Benchmarking Safe Exploration in Deep Reinforcement Learning", 2019, section 5; the
    division keeps the scale of rewards). It is updated once per batch of ``venv.num_envs`` finished episodes, by
    ``rate * (mean cost / limit - 1)``. What lies in a replay buffer keeps the penalty of its time.

    :param venv: an environment whose ``info`` has ``cost`` and ``episode_cost``
    :param limit: mean cost of an episode that is allowed, above 0
    :param rate: step of the multiplier
    :param multiplier: where it starts
    """

    def __init__(self, venv: VecEnv, limit: float, rate: float = 0.1, multiplier: float = 0.0) -> None:
        super().__init__(venv)
        for name, value, least in (
            ("cost_limit", limit, "above 0"),
            ("cost_rate", rate, "above 0"),
            ("cost_multiplier", multiplier, "of at least 0"),
        ):
            number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
            if not number or (value == 0 and least == "above 0"):
                raise ConfigError(f"env.{name}={value!r}: expected a finite number {least}.")
        self.limit, self.rate, self.multiplier = float(limit), float(rate), float(multiplier)
        self.costs: list[float] = []
        """Costs of the episodes that finished since the last update of the multiplier."""
        self.mean_cost: float | None = None
        """Mean cost of an episode in the last batch."""

    def reset(self) -> Any:
        """Start new episodes in all environments."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """
        :return: observations, penalised rewards, dones, infos
        :raises ConfigError: the environment tells no cost
        """
        observations, rewards, dones, infos = self.venv.step_wait()
        try:
            costs = np.array([info["cost"] for info in infos], dtype=rewards.dtype)
        except KeyError:
            raise ConfigError(
                "env.cost_limit needs a cost in every info of the environment, and this one has none: leave it null."
            ) from None
        penalised = (rewards - self.multiplier * costs) / (1.0 + self.multiplier)
        self.costs += [infos[i]["episode_cost"] for i in np.flatnonzero(dones)]
        if len(self.costs) >= self.num_envs:
            self.mean_cost = float(np.mean(self.costs))
            self.costs.clear()
            self.multiplier = max(0.0, self.multiplier + self.rate * (self.mean_cost / self.limit - 1.0))
        return observations, penalised.astype(rewards.dtype), dones, infos

    def state(self) -> dict[str, float | None]:
        """What a run saves."""
        return {"limit": self.limit, "rate": self.rate, "multiplier": self.multiplier, "mean_cost": self.mean_cost}


def find_constraint(venv: VecEnv | None) -> Lagrangian | None:
    """The limit on costs that a model learns under, if there is one."""
    return None if venv is None else unwrap_vec_wrapper(venv, Lagrangian)  # type: ignore[return-value]
