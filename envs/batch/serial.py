"""Environments stepped one after the other in this process: SB3's ``DummyVecEnv``, with errors that name one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
        with self._naming("__init__"):
            super().__init__([partial(self._make, i, make_one) for i, make_one in enumerate(env_fns)])

    def _make(self, i: int, make_one: Callable[[], gym.Env]) -> gym.Env:
        self._current = i
        env = make_one()
        self._current = i + 1
        return env

    @contextmanager
    def _naming(self, method: str, limit: float | None = None) -> Iterator[None]:
        """Name the environment at work in what it raises."""
        try:
            with time_limit(limit):
                yield
        except DaftError:
            raise
        except ENVIRONMENT_ERRORS as error:
            current = self._current if self._current < self._size else None  # all have answered
            raise environment_error(current, method, error) from error

    def reset(self) -> VecEnvObs:
        """Start an episode in every environment."""
        self._current = 0
        with self._naming("reset", self.step_timeout):
            return super().reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Step one environment after the other."""
        self._current = 0
        with self._naming("step", self.step_timeout):
            return super().step_wait()

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
                with self._naming("close", self.step_timeout):
                    env.close()
            except DaftError as error:  # whatever was done in it stands
                warnings.warn(DaftWarning(str(error)), stacklevel=2)
