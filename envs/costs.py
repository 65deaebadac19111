"""Costs of episodes, of environments that tell only those of steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

__all__ = ["EpisodeCosts"]


class EpisodeCosts(VecEnvWrapper):
    """Adds ``episode_cost``, the sum so far, to every ``info`` that has a number ``cost`` and no such sum.

    :param venv: any batch; where no ``cost`` is told, nothing changes
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self._sums = np.zeros(venv.num_envs)

    def reset(self) -> Any:
        """Start new episodes in all environments."""
        self._sums[:] = 0.0
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """
        :return: observations, rewards, dones, infos
        """
        observations, rewards, dones, infos = self.venv.step_wait()
        for i, info in enumerate(infos):
            cost = np.asarray(info.get("cost"))
            if cost.size == 1 and cost.dtype.kind in "biuf":
                self._sums[i] += cost.item()
                info.setdefault("episode_cost", float(self._sums[i]))
        self._sums[dones.astype(bool)] = 0.0
        return observations, rewards, dones, infos
