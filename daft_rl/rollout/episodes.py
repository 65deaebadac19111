"""Whole episodes of a batch of environments: where they start, where they end, and what they return."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from daft_rl.envs.batch.workers import INTERRUPTED, WorkerVecEnv
from daft_rl.envs.whole_episodes import TASK_EPISODE, TASK_GOES_ON, TaskReturns, TaskWatch, watch_task
from daft_rl.errors import DaftWarning, TaskError
from daft_rl.rollout.returns import Returns

__all__ = ["EpisodeBatch", "start_episodes"]

LONG = 5000
"""Steps of an episode without a time limit after which a warning says so."""
LONGEST = 100_000
"""Steps after which an episode that is evaluated is taken to have no end."""
LIMIT_IT = "put gymnasium.wrappers.TimeLimit around the environment, or register it with max_episode_steps."

REPORTS: dict[type[gym.Wrapper[Any, Any, Any, Any]], str] = {
    TaskReturns: TASK_EPISODE,
    Monitor: "episode",
    RecordEpisodeStatistics: "episode",
}
"""Wrappers that report episodes of what is inside of them, and the key in ``info`` where they do."""


@contextmanager
def _watched(envs: Iterable[gym.Env]) -> Iterator[list[TaskWatch]]:
    with ExitStack() as stack:
        yield [stack.enter_context(watch_task(env)) for env in envs]


def _envs_here(venv: VecEnv) -> list[gym.Env]:
    """The environments of a batch that steps in this process."""
    return list(getattr(venv.unwrapped, "envs", ()))


def start_episodes(venv: VecEnv, seed: int) -> VecEnvObs:
    """Start an episode of the task in every environment, whatever wrappers make of a reset.

    :param venv: environments of this process; other batches are only reset, and our workers do the same by themselves
    :param seed: environment ``i`` starts from ``seed + i``
    """
    with _watched(_envs_here(venv)) as watches:
        venv.seed(seed)
        started = venv.reset()
        under_way = [watch for watch in watches if not watch.was_reset]
        if not under_way:
            return started
        for watch in under_way:
            watch.end_episode()
        venv.seed(seed)
        return venv.reset()


def _find_report(venv: VecEnv) -> str | None:
    """The key in ``info`` that reports episodes of the task; ``None`` if an episode of the batch is one of the task."""
    return next((key for wrapper, key in REPORTS.items() if all(venv.env_is_wrapped(wrapper))), None)


class EpisodeBatch:
    """One batch of environments that is evaluated, and the returns of its episodes so far.

    :param venv: an environment of raw observations and rewards
    :param episodes: how many
    :param seed: of the first episode
    """

    def __init__(self, venv: VecEnv, episodes: int, seed: int) -> None:
        self.venv, self.episodes, self.seed = venv, episodes, seed
        self.pause = getattr(venv, "pause", None)  # our batches skip the physics of episodes that are over
        self.returns, self.lengths = np.zeros(episodes), np.zeros(episodes, dtype=int)
        self.costs = np.full(episodes, np.nan)
        self.warned = False
        self.report = _find_report(venv)
        self.reporting = [] if self.report is None else _envs_here(venv)
        self._start_episodes(0)

    def _start_episodes(self, first: int) -> None:
        """Start the next episodes, one per environment. None is left when ``first`` is the number of episodes."""
        self.rows = np.arange(first, min(first + self.venv.num_envs, self.episodes))  # of environment 0, 1, ...
        self.over = np.arange(self.venv.num_envs) >= len(self.rows)
        if len(self.rows):
            self.observations = start_episodes(self.venv, self.seed + first)
        elif self.pause is not None:
            self.pause(np.zeros_like(self.over))

    def start(self, actions: NDArray[Any]) -> None:
        """Begin a step."""
        if self.pause is not None:
            self.pause(self.over)
        self.venv.step_async(actions)

    def finish(self) -> None:
        """Finish the step, and count its rewards."""
        with _watched(self.reporting) as watches:
            self.observations, rewards, dones, infos = self.venv.step_wait()
        if any(info.get(INTERRUPTED) for info in infos):
            self._play_again()
            return
        going = np.flatnonzero(~self.over)
        self.returns[self.rows[going]] += rewards[going]
        self.lengths[self.rows[going]] += 1
        self._refuse_endless()
        for i in going[dones[going].astype(bool)]:
            if self.report is None or self._is_over(infos[i], watches[i] if watches else None):
                self._end_episode(i, infos[i])
        if self.over.all():
            self._start_episodes(int(self.rows[-1]) + 1)

    def _refuse_endless(self) -> None:
        """
        :raises TaskError: an episode is longer than any that is meant
        """
        longest = self.lengths.max()
        if longest > LONGEST:
            raise TaskError(f"An episode has not ended after {LONGEST} steps: {LIMIT_IT}")
        if longest >= LONG and not self.warned:
            self.warned = True
            if not any(self.venv.env_is_wrapped(TimeLimit)):
                message = (
                    f"An episode has gone on for {LONG} steps, and nothing limits it. If it has no end, {LIMIT_IT} "
                    f"The run ends at {LONGEST} steps."
                )
                warnings.warn(DaftWarning(message), stacklevel=2)

    def _is_over(self, info: dict[str, Any], watch: TaskWatch | None) -> bool:
        """Whether the task's episode ended with one of the batch. If its wrappers do not reset it, it goes on."""
        if self.report == "episode" and "episode" in info:
            return True
        if watch is not None:
            return watch.was_reset
        return isinstance(self.venv.unwrapped, WorkerVecEnv) and not info.get(TASK_GOES_ON)

    def _end_episode(self, i: int, info: dict[str, Any]) -> None:
        row = self.rows[i]
        self.costs[row] = info.get("episode_cost", np.nan)
        self.over[i] = True
        told = self.report and info.get(
            self.report
        )  # nothing, if a wrapper cuts episodes that a Monitor inside sees no end of
        # Monitor rounds: it counts only where it tells something else than what was added up here
        if told and not (told["l"] == self.lengths[row] and np.isclose(told["r"], self.returns[row], 1e-5, 1e-5)):
            self.returns[row], self.lengths[row] = float(told["r"]), int(told["l"])

    def _play_again(self) -> None:
        """Forget the running episodes, of which some broke off because a worker died, and start them anew."""
        self.returns[self.rows], self.lengths[self.rows], self.costs[self.rows] = 0.0, 0, np.nan
        self._start_episodes(int(self.rows[0]))

    def result(self) -> Returns:
        """The returns of all episodes."""
        costs = None if np.isnan(self.costs).any() else self.costs.tolist()
        return Returns(self.returns.tolist(), self.lengths.tolist(), costs)
