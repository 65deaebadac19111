"""Environments of the user are copied, or made again."""

from __future__ import annotations

from collections.abc import Callable

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


def test_a_function_is_called_once_for_each_environment() -> None:
    calls: list[int] = []

    def make_env() -> gym.Env:
        calls.append(len(calls))
        return Windy()

    factory = env_factory(make_env)
    assert not calls
    assert isinstance(factory(), Windy)
    assert calls == [0]


def _raising() -> gym.Env:
    raise RuntimeError("init boom")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_raising, "'_raising' cannot be made: RuntimeError: init boom"),
        (lambda: 3, "'own' makes no Gymnasium env.*int"),
    ],
)
def test_a_function_that_makes_no_environment_is_named(function: Callable[[], gym.Env], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        env_factory(function)()
