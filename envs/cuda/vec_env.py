"""Worlds as an SB3 ``VecEnv``, which speaks NumPy: for everything but the fast collection of experience."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from daft_rl.envs.cuda.worlds import Worlds
from daft_rl.errors import TaskError

__all__ = ["WorldsVecEnv"]


class WorldsVecEnv(VecEnv):
    """Steps :class:`~daft_rl.envs.cuda.worlds.Worlds`. There are no single environments behind it.

    :param worlds: what steps; learners on the same device step it themselves
    """

    def __init__(self, worlds: Worlds) -> None:
        self.worlds = worlds
        super().__init__(worlds.num_worlds, worlds.observation_space, worlds.action_space)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed everything random. Worlds share one generator."""
        if seed is not None:
            self.worlds.seed(seed)
        return [seed] * self.num_envs

    def reset(self) -> VecEnvObs:
        """Start an episode in every world."""
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self.worlds.reset().cpu().numpy()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the actions, shape ``(num_envs, action size)``."""
        self._actions = torch.as_tensor(actions, dtype=torch.float32, device=self.worlds.device)

    def step_wait(self) -> VecEnvStepReturn:
        """Step.

        :return: observations, rewards (float32), dones, and a dictionary per world
        """
        step = self.worlds.step(self._actions)
        done, truncated = step.done.cpu().numpy(), step.truncated.cpu().numpy()
        columns = {name: values.cpu().numpy() for name, values in step.extras.items()}
        columns["TimeLimit.truncated"] = truncated
        infos = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        if done.any():
            final = step.final_observation.cpu().numpy()
            for i in np.flatnonzero(done):
                infos[i]["terminal_observation"] = final[i]
        return step.observation.cpu().numpy(), step.reward.cpu().numpy(), done, infos

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the batch, once for each world."""
        return [getattr(self.worlds, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Worlds have no attributes of their own.

        :raises TaskError: always
        """
        raise TaskError(f"{attr_name}: worlds of vec='cuda' cannot be changed one by one. Use another vec.")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Worlds have no methods of their own.

        :raises TaskError: always
        """
        raise TaskError(f"{method_name}: worlds of vec='cuda' cannot be called one by one. Use another vec.")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Worlds have no wrappers."""
        return [False for _ in self._get_indices(indices)]

    def close(self) -> None:
        """Nothing to close: memory is freed with the object."""
