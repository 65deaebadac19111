"""Environments of the user are copied, or made again."""

from __future__ import annotations

import gymnasium as gym
import pytest

from daft_rl.envs.user_env import env_factory
from daft_rl.errors import TaskError
from tests.envs.test_domain import Windy


def test_changes_of_an_environment_are_copied_or_refused() -> None:
    env = gym.make("Ant-v5")
    assert env_factory(env)().unwrapped.model is not env.unwrapped.model  # type: ignore[attr-defined]
    env.unwrapped.model.opt.gravity[2] = -5.0  # type: ignore[attr-defined]
    with pytest.raises(TaskError, match="changed"):  # a copy of this environment is made anew
        env_factory(env)
    windy = gym.make("Windy-v0")
    windy.unwrapped.wind = 3.0  # type: ignore[attr-defined]
    assert env_factory(windy)().unwrapped.wind == 3.0  # type: ignore[attr-defined]


def test_a_function_is_used_as_it_is() -> None:
    assert env_factory(Windy) is Windy
