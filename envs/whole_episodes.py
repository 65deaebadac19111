"""Whole episodes of a task inside of wrappers that end episodes of their own, such as one with each life of a game.

SB3's ``EpisodicLifeEnv`` (Atari) is such a wrapper. It resets the task only after the last life, and its neighbour
``ClipRewardEnv`` changes the reward. An evaluation counts what the task itself gives, and starts from where the task
itself starts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

__all__ = ["TASK_EPISODE", "TASK_GOES_ON", "TaskReturns", "TaskWatch", "reset_task", "watch_task"]

TASK_EPISODE = "task_episode"
"""Key in the ``info`` of :class:`TaskReturns`."""
TASK_GOES_ON = "task_goes_on"
"""Key in the ``info`` of our workers, at the end of an episode after which the task was not reset."""


class TaskReturns(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Adds the task's own return ``r`` and steps ``l`` since its last reset to each ``info``.

    :param env: the task with its time limit. Wrappers that change rewards or episodes belong around this one
    """

    def __init__(self, env: gym.Env) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._return, self._length = 0.0, 0

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see :meth:`gymnasium.Env.reset`."""
        self._return, self._length = 0.0, 0
        return self.env.reset(**arguments)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step; see :meth:`gymnasium.Env.step`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._return, self._length = self._return + float(reward), self._length + 1
        return observation, reward, terminated, truncated, info | {TASK_EPISODE: {"r": self._return, "l": self._length}}


@dataclass
class TaskWatch:
    """What happens to a task inside of its wrappers."""

    env: gym.Env
    """The task in its wrappers."""
    was_reset: bool = False
    """Whether the task itself was reset."""
    ends: bool = False
    """Whether the task claims to end with each step, without stepping."""

    def end_episode(self) -> None:
        """Let all wrappers see the end of the task's episode: the next reset reaches the task.

        Spaces are copied, whose random numbers the environment may use.
        """
        self.ends = True
        self.env.step(copy.deepcopy(self.env.action_space).sample())
        self.ends = False


@contextmanager
def watch_task(env: gym.Env) -> Iterator[TaskWatch]:
    """Watch the resets of the task that its wrappers ask for.

    The methods of the object are replaced, and no wrapper is put in between: a wrapper may take the task for what is
    directly inside of it.

    :param env: any environment
    """
    task, watch = env.unwrapped, TaskWatch(env)
    methods: dict[str, Any] = vars(task)
    own: dict[str, Any] = {name: methods[name] for name in ("reset", "step") if name in methods}
    reset, step = task.reset, task.step

    def watched_reset(*args: Any, **kwargs: Any) -> Any:
        watch.was_reset = True
        return reset(*args, **kwargs)

    def watched_step(*args: Any, **kwargs: Any) -> Any:
        if watch.ends:
            return copy.deepcopy(task.observation_space).sample(), 0.0, True, False, {}
        return step(*args, **kwargs)

    methods.update(reset=watched_reset, step=watched_step)
    try:
        yield watch
    finally:
        del methods["reset"], methods["step"]
        methods.update(own)


def reset_task(env: gym.Env, **arguments: Any) -> tuple[Any, dict[str, Any]]:
    """Start an episode of the task, whatever its wrappers make of a reset.

    :param env: any environment
    :param arguments: of :meth:`gymnasium.Env.reset`
    """
    with watch_task(env) as watch:
        started = env.reset(**arguments)
        if watch.was_reset:
            return started
        watch.end_episode()
        return env.reset(**arguments)
