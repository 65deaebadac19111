"""Environments that cannot be made, and things that are no environments, for wrong invocations."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.envs.classic_control.pendulum import PendulumEnv

__all__ = ["NoWrapper", "Raises", "no_wrapper"]


class Raises(PendulumEnv):
    """Cannot be made."""

    def __init__(self, **_: Any) -> None:
        raise RuntimeError("init boom")


class NoWrapper:
    """Is no wrapper."""


def no_wrapper(env: gym.Env) -> gym.Env:
    """A function, which a settings file may not have called."""
    return env


gym.register("Raises-v0", entry_point="tests.faulty:Raises")
gym.register("NotAnEnv-v0", entry_point="tests.faulty:NoWrapper")
gym.register("Nowhere-v0", entry_point="tests.nowhere:Env")
