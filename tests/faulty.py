"""Environments that cannot be made, and things that are no environments, for wrong invocations."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.pendulum import PendulumEnv

__all__ = ["Draws", "NoWrapper", "Raises", "as_it_is", "no_wrapper", "raising"]


class Raises(PendulumEnv):
    """Cannot be made."""

    def __init__(self, **_: Any) -> None:
        raise RuntimeError("init boom")


class Draws(PendulumEnv):
    """Draws from NumPy's global generator, and counts how many are open."""

    open = 0

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.length = np.random.uniform()
        Draws.open += 1

    def close(self) -> None:
        super().close()
        Draws.open -= 1


class NoWrapper:
    """Is no wrapper."""


def no_wrapper(env: gym.Env) -> int:
    """A function that returns no environment."""
    return 3


def raising(env: gym.Env) -> gym.Env:
    """A function that fails."""
    raise RuntimeError("wrap boom")


def as_it_is(env: gym.Env) -> gym.Env:
    """A function that is a wrapper."""
    return env


gym.register("Draws-v0", entry_point="tests.faulty:Draws")
gym.register("Raises-v0", entry_point="tests.faulty:Raises")
gym.register("NotAnEnv-v0", entry_point="tests.faulty:NoWrapper")
gym.register("Nowhere-v0", entry_point="tests.nowhere:Env")
