"""Costs of episodes, for environments that report only the cost of each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from daft_rl.errors import TaskError

__all__ = ["EpisodeCosts"]


class EpisodeCosts(VecEnvWrapper):
    """Adds ``episode_cost``, the sum so far, to each ``info`` that has a number ``cost`` and no ``episode_cost``.

    :param venv: any batch. Without ``cost`` nothing changes
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

    def state_dict(self) -> dict[str, Any]:
        """The sums of the running episodes: ``sums``, float64, shape ``(num_envs,)``."""
        return {"sums": self._sums.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned.

        :raises TaskError: the state is of another number of environments
        """
        sums = np.asarray(state["sums"], dtype=self._sums.dtype)
        if sums.shape != self._sums.shape:
            raise TaskError(f"The state has costs of {sums.size} environments, expected {self.num_envs}.")
        self._sums[:] = sums
