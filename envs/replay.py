"""Going on in the middle of an episode: play it again from its start.

A simulator's state is more than its numbers: robosuite and Safety-Gymnasium keep controllers, worlds and counters in
Python objects, and wrappers keep queues. What led to the state is small: the state of the random generators before the
episode began, and the actions since. Playing them again gives every part of the state the same bits, whatever the
simulator is, if nothing else decides what happens. Whoever replays compares the last observation and the rewards to see
that.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

__all__ = ["Replayable"]


def _generators(env: gym.Env) -> dict[str, Any]:
    """The random generators of an environment and its wrappers: what ``generators`` of the environment tells, or else
    those among the attributes of each."""
    core: Any = env.unwrapped
    found = dict(core.generators() if hasattr(type(core), "generators") else vars(core))
    depth = 0
    while isinstance(env, gym.Wrapper):
        found |= {f"wrapper {depth}: {name}": value for name, value in vars(env).items()}
        env, depth = env.env, depth + 1
    kinds = (np.random.Generator, np.random.RandomState, random.Random)
    return {name: value for name, value in found.items() if isinstance(value, kinds)}


def _state_of(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state(legacy=False)


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        version, numbers, gauss = state
        generator.setstate((version, tuple(numbers), gauss))
    else:
        generator.set_state(state)


class Replayable(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Remembers how the running episode came about. It belongs around all other wrappers.

    :param env: any environment
    :param number: its place in the batch
    """

    def __init__(self, env: gym.Env, number: int) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, number=number)
        super().__init__(env)
        self.number = number
        self.actions: list[Any] = []
        """The actions of this episode. Threads, which step without :meth:`step`, add theirs."""
        self._start: dict[str, Any] = {}
        self._rewards: list[Any] = []

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see :meth:`gymnasium.Env.reset`."""
        self._start = {
            "seed": arguments.get("seed"),
            "generators": {name: _state_of(generator) for name, generator in _generators(self.env).items()},
        }
        self.actions, self._rewards = [], []
        return self.env.reset(**arguments)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step; see :meth:`gymnasium.Env.step`."""
        self.actions.append(np.array(action))  # a copy: callers reuse their arrays
        result = self.env.step(action)
        self._rewards.append(result[1])
        return result

    def episode(self) -> dict[str, Any]:
        """What :meth:`replay` needs: ``seed``, states of ``generators``, ``actions``, shape ``(steps, ...)``, and
        ``rewards``, shape ``(steps,)``, of which threads leave none."""
        return self._start | {"actions": np.array(self.actions), "rewards": np.array(self._rewards, dtype=float)}

    def replay(self, episodes: Mapping[int, Mapping[str, Any]]) -> tuple[Any, str]:
        """Play the running episode of another process again, up to where it was.

        Rewards tell of levels or noise that no observation shows. An environment that raises is told, not raised: a
        worker process ends with an error, and is still needed.

        :param episodes: what :meth:`episode` returned, by :attr:`number`
        :return: the observation where it was; and what went wrong, or an empty text
        """
        try:
            return self._replay(episodes[self.number])
        except Exception as error:  # environments raise what they like
            return None, f"an episode raised {type(error).__name__}: {error}"

    def _replay(self, episode: Mapping[str, Any]) -> tuple[Any, str]:
        generators = _generators(self.env)
        for name, state in episode["generators"].items():
            _set_state(generators[name], state)
        seed = episode["seed"]
        observation, _ = self.reset() if seed is None else self.reset(seed=seed)
        for action in episode["actions"]:
            observation, *_ = self.step(action)
        known = len(episode["rewards"]) == len(episode["actions"])
        same = not known or np.array_equal(self._rewards, episode["rewards"], equal_nan=True)
        return observation, "" if same else "an episode gave other rewards"
