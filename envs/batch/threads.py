"""Gymnasium's MuJoCo tasks stepped by threads: equal to ``DummyVecEnv`` in every bit, and faster.

MuJoCo releases Python's global interpreter lock while it steps, so threads share the physics. The rest of a step, which
Gymnasium computes in Python for one environment after the other, is computed once for the batch. The operations and
their order are the same, so every number has the same bits.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.wrappers import OrderEnforcing, TimeLimit
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from daft_rl.envs.batch.observation_shifts import batch_observation_shifts, kept_entries
from daft_rl.envs.batch.serial import SerialVecEnv
from daft_rl.envs.batch.step_threads import StepThreads
from daft_rl.envs.batch.supported import find_rules, wrappers_of
from daft_rl.envs.cores import usable_cores
from daft_rl.envs.mujoco.batched_tasks import BatchedTask
from daft_rl.envs.replay import Replayable
from daft_rl.envs.wrappers import ActionDelay
from daft_rl.errors import TaskError

__all__ = ["ThreadedMujocoVecEnv"]


class ThreadedMujocoVecEnv(SerialVecEnv):
    """Steps Gymnasium's MuJoCo tasks with several threads. Results equal those of ``DummyVecEnv`` in every bit.

    Each environment keeps its own model, data, random streams and wrappers, and resets itself. The models may differ.
    Constructor arguments of Gymnasium's classes and of the wrappers (reward weights, healthy ranges, time step, noise)
    are read again after :meth:`reset`, :meth:`get_attr`, :meth:`set_attr` and :meth:`env_method`. Other changes of a
    model have an effect from the next step on.

    :param env_fns: functions that each make one environment
    :param num_threads: number of threads that step, the caller's among them; ``None`` is one per core
    :param step_timeout: as in ``SerialVecEnv``
    :raises TaskError: a task, wrapper or render mode is not supported, or the environments observe different things
    """

    def __init__(
        self,
        env_fns: list[Callable[[], gym.Env]],
        num_threads: int | None = None,
        step_timeout: float | None = None,
    ) -> None:
        if num_threads is None:
            num_threads = usable_cores()
        if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
            raise TaskError(f"num_threads: expected a whole number >= 1, got {num_threads!r}.")
        super().__init__(env_fns, step_timeout)
        self._rules = find_rules(self.envs[0])
        first: Any = self.envs[0].unwrapped
        for env in self.envs:
            core: Any = env.unwrapped
            if find_rules(env) is not self._rules or core.observation_structure != first.observation_structure:
                raise TaskError(f"Environments of one batch must observe the same; {env} and {self.envs[0]} do not.")
        self._refresh()
        self._stale = True
        self._paused = np.zeros(self.num_envs, dtype=bool)
        self._threads = StepThreads(min(num_threads, self.num_envs))
        self._finalizer = weakref.finalize(self, self._threads.request_exit)

    def _refresh(self) -> None:
        """Look up what steps use."""
        self._cores: list[Any] = [env.unwrapped for env in self.envs]
        self._data = [core.data for core in self._cores]
        self._task = BatchedTask(self._rules, self._cores)
        stacks = [wrappers_of(env) for env in self.envs]

        def wrappers(kind: type[gym.Wrapper]) -> list[tuple[int, Any]]:
            return [(i, wrapper) for i, stack in enumerate(stacks) for wrapper in stack if isinstance(wrapper, kind)]

        self._orders, self._limits, self._delays = wrappers(OrderEnforcing), wrappers(TimeLimit), wrappers(ActionDelay)
        self._replayable = wrappers(Replayable)
        self._shifts = batch_observation_shifts(stacks)
        self._kept = kept_entries(stacks)
        self._stale = False

    def reset(self) -> VecEnvObs:
        """Start an episode in every environment. Seeds and options that were set hold for this reset only."""
        self._threads.finish()
        self._stale = True
        self._paused[:] = False
        return super().reset()

    def pause(self, rows: NDArray[Any]) -> None:
        """Stop some environments until the next :meth:`reset`. The others are not affected.

        What a step returns for a paused environment has no meaning, except that its episode does not end.

        :param rows: the environments to pause, Booleans of shape ``(num_envs,)``
        """
        self._paused = rows.copy()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Begin a step.

        :param actions: shape ``(num_envs, action size)``
        :raises ResetNeeded: an environment was never reset
        """
        if self._stale or [core.data for core in self._cores] != self._data:
            self._refresh()
            if not all(order.has_reset for _, order in self._orders):
                raise ResetNeeded("Cannot call env.step() before calling env.reset()")
        expected = (self.num_envs, *(self.action_space.shape or ()))
        actions = np.array(actions)  # a copy, since threads and delays use it after the caller may have changed it
        if actions.shape != expected:
            raise TaskError(f"Action dimension mismatch. Expected {expected}, found {actions.shape}.")
        for i, replayable in self._replayable:
            replayable.actions.append(actions[i])
        if self._delays:
            rows = list(actions)
            for i, delay in self._delays:
                delay._queue.append(rows[i])
                rows[i] = delay._queue.popleft()
            actions = np.stack(rows)
        self.actions, self._before = actions, self._task.position()
        self._threads.start((int(i), self._cores[i], actions[i]) for i in np.flatnonzero(~self._paused))

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step.

        :return: observations, rewards (float32), dones, and a dictionary per environment
        :raises FaultyEnvironmentError: the simulator raised
        """
        self._current = self.num_envs  # no single one, until one is reset
        return self._guard("step", self._finish_step, self.step_timeout)

    def _finish_step(self) -> VecEnvStepReturn:
        self._threads.finish()
        observations, rewards, terminated, info = self._task.finish_step(self.actions, self._before)
        for shift in self._shifts:
            shift(observations)
        if self._kept is not None:
            observations = observations[:, self._kept]
        truncated = self._count_steps()
        info["TimeLimit.truncated"] = (truncated & ~terminated).tolist()
        infos = [dict(zip(info, values)) for values in zip(*info.values())]  # noqa: B905 (strict= is slow)
        dones = (terminated | truncated) & ~self._paused
        for i in np.flatnonzero(dones):
            self._current = int(i)
            infos[i]["terminal_observation"] = observations[i].copy()
            observations[i], self.reset_infos[i] = self.envs[i].reset()
        return observations, rewards.astype(np.float32), dones, infos

    def _count_steps(self) -> NDArray[Any]:
        """Count a step in every time limit, and return which are reached. The wrapper holds the count and resets it."""
        truncated = np.zeros(self.num_envs, dtype=bool)
        for i, limit in self._limits:
            limit._elapsed_steps += 1
            if limit._elapsed_steps >= limit._max_episode_steps:
                truncated[i] = True
        return truncated

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """See ``VecEnv``. The caller may change what it gets, so the next step looks everything up again."""
        self._stale = True
        return super().get_attr(attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """See ``VecEnv``."""
        self._threads.finish()
        self._stale = True
        super().set_attr(attr_name, value, indices)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """See ``VecEnv``."""
        self._threads.finish()
        self._stale = True
        return super().env_method(method_name, *args, indices=indices, **kwargs)

    def close(self) -> None:
        """End the threads and close the environments."""
        self._threads.finish()
        self._threads.close()
        super().close()
