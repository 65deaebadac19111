"""A limit on the cost of an episode, for any algorithm: a Lagrangian penalty on the reward."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, unwrap_vec_wrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from daft_rl.errors import ConfigError
from daft_rl.validation import NonNegative, Positive, checked

__all__ = ["Lagrangian", "find_constraint"]


@checked(where="cost")
class Penalty:
    """The numbers of a Lagrangian penalty, checked."""

    limit: Positive
    rate: Positive
    multiplier: NonNegative


class Lagrangian(VecEnvWrapper):
    """Gives the learner ``(reward - multiplier * cost) / (1 + multiplier)``.

    The multiplier rises while finished episodes cost more than the limit. It falls, but not below zero, while they cost
    less (Ray et al., "Benchmarking Safe Exploration in Deep Reinforcement Learning", 2019, section 5; the division
    keeps the scale of rewards). It is updated once per batch of ``venv.num_envs`` finished episodes, by
    ``rate * (mean cost / limit - 1)``. Transitions in a replay buffer keep the penalty of the time they were collected.

    :param venv: an environment whose ``info`` has ``cost`` and ``episode_cost``
    :param limit: mean cost of an episode that is allowed, above 0
    :param rate: step of the multiplier, above 0
    :param multiplier: initial multiplier, at least 0
    :raises ConfigError: an impossible number
    """

    def __init__(self, venv: VecEnv, limit: float, rate: float = 0.1, multiplier: float = 0.0) -> None:
        super().__init__(venv)
        checked = Penalty(limit=limit, rate=rate, multiplier=multiplier)
        self.limit, self.rate = float(checked.limit), float(checked.rate)
        self.multiplier = float(checked.multiplier)
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
        :raises ConfigError: the environment reports no cost
        """
        observations, rewards, dones, infos = self.venv.step_wait()
        try:
            costs = np.array([info["cost"] for info in infos], dtype=rewards.dtype)
        except KeyError:
            raise ConfigError(
                "A limit on costs needs `cost` in every info, and this environment has none: set cost_limit=None.",
                arguments=("cost_limit",),
            ) from None
        penalised = (rewards - self.multiplier * costs) / (1.0 + self.multiplier)
        self.costs += [infos[i]["episode_cost"] for i in np.flatnonzero(dones)]
        if len(self.costs) >= self.num_envs:
            self.mean_cost = float(np.mean(self.costs))
            self.costs.clear()
            self.multiplier = max(0.0, self.multiplier + self.rate * (self.mean_cost / self.limit - 1.0))
        return observations, penalised.astype(rewards.dtype), dones, infos

    def state(self) -> dict[str, float | None]:
        """What a run saves beside the agent."""
        return {"limit": self.limit, "rate": self.rate, "multiplier": self.multiplier, "mean_cost": self.mean_cost}

    def state_dict(self) -> dict[str, Any]:
        """What the penalty needs to go on."""
        return self.state() | {"costs": list(self.costs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.limit, self.rate, self.multiplier = state["limit"], state["rate"], state["multiplier"]
        self.mean_cost, self.costs = state["mean_cost"], list(state["costs"])


def find_constraint(venv: VecEnv | None) -> Lagrangian | None:
    """The limit on costs that a model learns under, if there is one."""
    return None if venv is None else unwrap_vec_wrapper(venv, Lagrangian)  # type: ignore[return-value]
