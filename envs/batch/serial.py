"""Environments stepped one after the other in this process: SB3's ``DummyVecEnv``, with errors that name one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from daft_rl.envs.batch.contract import ENVIRONMENT_ERRORS, environment_error, store_observation, time_limit
from daft_rl.errors import DaftError, DaftWarning

__all__ = ["SerialVecEnv"]


class SerialVecEnv(DummyVecEnv):
    """As ``DummyVecEnv``, with errors that name the environment.

    :param env_fns: functions that each make one environment
    :param step_timeout: seconds that a step of the batch may take, with the resets in it; ``None`` is no limit. See
        :func:`~daft_rl.envs.batch.contract.time_limit` for what cannot be interrupted
    :raises FaultyEnvironmentError: an environment raised, here or later, or returned what it should not
    """

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env]], step_timeout: float | None = None) -> None:
        self._current, self._size = 0, len(env_fns)
        self.step_timeout = step_timeout
        makers: list[Callable[[], gym.Env]] = [partial(self._make, i, make_one) for i, make_one in enumerate(env_fns)]
        self._guard("__init__", partial(super().__init__, makers), None)

    def _make(self, i: int, make_one: Callable[[], gym.Env]) -> gym.Env:
        self._current = i
        env = make_one()
        self._current = i + 1
        return env

    def _guard(self, method: str, call: Callable[[], Any], limit: float | None) -> Any:
        """Call something, and name the environment at work in what it raises.

        :param method: of the environments, for the message
        :param limit: seconds
        """
        try:
            with time_limit(limit):
                return call()
        except DaftError:
            raise
        except ENVIRONMENT_ERRORS as error:
            current = self._current if self._current < self._size else None  # all have answered
            raise environment_error(current, method, error) from error

    def reset(self) -> VecEnvObs:
        """Start an episode in every environment."""
        self._current = 0
        return self._guard("reset", super().reset, self.step_timeout)

    def step_wait(self) -> VecEnvStepReturn:
        """Step one environment after the other."""
        self._current = 0
        return self._guard("step", super().step_wait, self.step_timeout)

    def _save_obs(self, env_idx: int, obs: Any) -> None:
        """SB3 calls this for one environment after the other, when it is done with it."""
        self._current = env_idx
        store_observation(self.buf_obs, env_idx, obs)
        self._current = env_idx + 1

    def close(self) -> None:
        """Close every environment, with a warning about one that cannot be closed."""
        for i, env in enumerate(self.envs):
            self._current = i
            try:
                self._guard("close", env.close, self.step_timeout)
            except DaftError as error:  # whatever was done in it stands
                warnings.warn(DaftWarning(str(error)), stacklevel=2)
