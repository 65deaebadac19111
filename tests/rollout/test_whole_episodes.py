"""Evaluations count whole episodes of the task, in its own reward, under wrappers that change either."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit, TransformReward
from stable_baselines3 import PPO
from stable_baselines3.common.atari_wrappers import ClipRewardEnv, EpisodicLifeEnv, FireResetEnv, NoopResetEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from daft_rl.envs import make_vec
from daft_rl.envs.domain import read_domains
from daft_rl.envs.whole_episodes import TaskReturns, reset_task
from daft_rl.rollout.evaluation import evaluate, visit

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not import this module, and with it PyTorch


class Game(gym.Env[Any, Any]):
    """Three lives of 3 to 12 steps each, 10 points a step. It looks like a game of ALE."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces.Box(-100, 100, (2,)), spaces.Discrete(3)
        self.lives, self.left = 0, 0
        self.ale = SimpleNamespace(lives=lambda: self.lives)

    def get_action_meanings(self) -> list[str]:
        return ["NOOP", "FIRE", "LEFT"]

    def _observe(self) -> Any:
        return np.array([self.lives, self.left], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.lives, self.left = 3, int(self.np_random.integers(3, 13))
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        if self.left == 0:
            self.lives, self.left = self.lives - 1, int(self.np_random.integers(3, 13))
        return self._observe(), 10.0, self.lives == 0, False, {}


class OwnLives(gym.Wrapper[Any, Any, Any, Any]):
    """Ends an episode with each life, as SB3's wrapper does, and hides what it knows elsewhere."""

    over = True

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation: Any = None
        info: dict[str, Any] = {}
        if not self.over:
            observation, _, self.over, _, info = self.env.step(0)
        if self.over:
            observation, info = self.env.reset(**kwargs)
        self.over, self.lives = False, self.env.unwrapped.lives  # type: ignore[attr-defined]
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, self.over, cut, info = self.env.step(action)
        before, self.lives = self.lives, self.env.unwrapped.lives  # type: ignore[attr-defined]
        return observation, reward, self.over or self.lives < before, cut, info


def atari(env: gym.Env) -> gym.Env:
    return ClipRewardEnv(FireResetEnv(EpisodicLifeEnv(NoopResetEnv(env, noop_max=5))))  # type: ignore[arg-type]


def own(env: gym.Env) -> gym.Env:
    return ClipRewardEnv(OwnLives(env))


def halved(env: gym.Env) -> gym.Env:
    return TransformReward(env, lambda reward: float(reward) / 2)


def short(env: gym.Env) -> gym.Env:
    return TimeLimit(env, 6)


def monitored(wrap: Callable[[gym.Env], gym.Env]) -> gym.Env:
    return wrap(Monitor(Game()))


def counted(wrap: Callable[[gym.Env], gym.Env]) -> gym.Env:
    """Without SB3: workers then do not import PyTorch."""
    return wrap(RecordEpisodeStatistics(Game()))


gym.register("Game-v0", f"{__name__}:Game", max_episode_steps=1000)


@pytest.fixture(scope="module")
def model() -> PPO:
    return PPO("MlpPolicy", Game(), n_steps=8, batch_size=8, seed=0, device="cpu")


@pytest.mark.parametrize("wrap", [atari, own, halved])
def test_games_and_their_points_are_those_of_evaluate_policy(wrap: Callable[..., gym.Env], model: PPO) -> None:
    make = partial(monitored, wrap)
    played: Any = []
    for seed in range(5):
        venv = DummyVecEnv([make])
        venv.seed(seed)
        np.random.seed(0)  # of NoopResetEnv
        played.append(evaluate_policy(model, venv, 1, return_episode_rewards=True))
    venv = DummyVecEnv([make, make])
    for _ in range(2):  # the second time begins in the middle of games
        result = evaluate(model, venv, 5, seed=0)
        assert result.returns == [returns[0] for returns, _ in played]
        assert result.lengths == [lengths[0] for _, lengths in played]
    assert len(set(result.returns)) > 2


@pytest.mark.parametrize("vec", ["dummy", "workers"])
def test_every_engine_counts_the_same_games(vec: str, model: PPO) -> None:
    make = partial(counted, lambda env: halved(OwnLives(env)))
    venv = make_vec(make, num_envs=2, vec=vec)
    expected = evaluate(model, DummyVecEnv([partial(monitored, own)]), 5, seed=3)
    for _ in range(2):
        assert evaluate(model, venv, 5, seed=3) == expected
    venv.close()
    venv = make_vec(partial(counted, short), num_envs=2, vec=vec)
    result = evaluate(model, venv, 3, seed=0)
    assert (result.returns, result.lengths) == ([60.0] * 3, [6] * 3), "the time limit outside ends an episode"
    venv.close()


@pytest.mark.parametrize("wrap", ["atari", "own"])
def test_wrappers_of_a_registered_environment_get_a_monitor_inside(wrap: str, model: PPO) -> None:
    domains = read_domains({"name": "Game-v0", "wrappers": [f"{__name__}:{wrap}"]})
    venv = domains["target"].make_vec(2, "dummy")
    assert all(venv.env_is_wrapped(TaskReturns))
    expected = evaluate(model, DummyVecEnv([partial(monitored, globals()[wrap])]), 5, seed=3)
    assert evaluate(model, venv, 5, seed=3) == expected
    assert not any(read_domains({"name": "Game-v0"})["target"].make_vec(2, "dummy").env_is_wrapped(TaskReturns))


def test_gymnasiums_statistics_are_a_monitor_too(model: PPO) -> None:
    venv = DummyVecEnv([partial(counted, own)])
    assert evaluate(model, venv, 5, seed=3) == evaluate(model, DummyVecEnv([partial(monitored, own)]), 5, seed=3)


def test_without_a_monitor_episodes_of_wrappers_count_and_still_repeat(model: PPO) -> None:
    venv = DummyVecEnv([lambda: own(Game())])
    result = evaluate(model, venv, 5, seed=3)
    assert result.returns == [float(length) for length in result.lengths], "clipped to 1"
    assert max(result.lengths) < 13
    assert evaluate(model, venv, 5, seed=3) == result


def test_a_time_limit_outside_of_a_monitor_ends_an_episode(model: PPO) -> None:
    result = evaluate(model, DummyVecEnv([lambda: short(Monitor(Game()))] * 2), 3, seed=0)
    assert (result.returns, result.lengths) == ([60.0] * 3, [6] * 3)


def test_a_time_limit_among_the_wrappers_ends_an_episode_of_the_tasks_reward(model: PPO) -> None:
    wrappers = [f"{__name__}:{name}" for name in ("halved", "short")]
    venv = read_domains({"name": "Game-v0", "wrappers": wrappers})["target"].make_vec(2, "dummy")
    result = evaluate(model, venv, 3, seed=0)
    assert (result.returns, result.lengths) == ([60.0] * 3, [6] * 3)


def test_a_monitor_that_only_rounds_changes_no_return(model: PPO) -> None:
    def make(monitor: bool) -> gym.Env:
        env = TransformReward(Game(), lambda reward: float(reward) / 3)
        return Monitor(env) if monitor else env

    plain, rounded = (evaluate(model, DummyVecEnv([partial(make, monitor)]), 3, seed=0) for monitor in (False, True))
    assert plain == rounded
    assert plain.returns != [round(value, 6) for value in plain.returns]


def test_visits_begin_with_a_reset_of_the_task(model: PPO) -> None:
    venv = DummyVecEnv([lambda: own(Game())])
    first, again = (visit(model, venv, 20, seed=1)[0] for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])


def test_processes_of_sb3_count_as_evaluate_policy_does(model: PPO) -> None:
    venv = SubprocVecEnv([partial(monitored, own)], start_method="fork")
    result = evaluate(model, venv, 3, seed=3)
    assert result.returns[0] == evaluate(model, DummyVecEnv([partial(monitored, own)]), 1, seed=3).returns[0]
    assert min(result.lengths) > 8, "three lives"
    venv.close()


def test_a_reset_of_the_task_leaves_its_methods_and_random_numbers_alone() -> None:
    env = own(Game())
    env.reset(seed=0)
    for _ in range(4):
        env.step(0)
    env.action_space.seed(0)
    expected = [env.action_space.sample() for _ in range(5)]
    env.action_space.seed(0)
    assert reset_task(env, seed=7)[0].tolist() == own(Game()).reset(seed=7)[0].tolist()
    assert [env.action_space.sample() for _ in range(5)] == expected
    assert not {"reset", "step"} & vars(env.unwrapped).keys()
