"""Sums of costs can be saved and loaded in the middle of episodes. Their values: tests/rollout/test_lagrangian.py."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from daft_rl.envs.episode_costs import EpisodeCosts
from daft_rl.errors import TaskError


class ActionCost(gym.Env[Any, Any]):
    """Each step costs as much as its action; episodes last 5 steps."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(1, np.float32), 0.0, self.steps == 5, False, {"cost": float(action)}


def test_sums_go_on_after_loading() -> None:
    inner = DummyVecEnv([ActionCost] * 2)
    first, second = EpisodeCosts(inner), EpisodeCosts(inner)
    first.reset()
    for _ in range(3):
        first.step(np.array([1, 2]))
    state = first.state_dict()
    first._sums[:] = 99.0
    assert state["sums"].tolist() == [3.0, 6.0], "a copy"
    second.load_state_dict(state)
    assert [info["episode_cost"] for info in second.step(np.array([1, 3]))[3]] == [4.0, 9.0]
    assert state["sums"].tolist() == [3.0, 6.0], "not changed by steps"


def test_a_state_of_another_batch_is_an_error() -> None:
    costs = EpisodeCosts(DummyVecEnv([ActionCost] * 2))
    with pytest.raises(TaskError, match="costs of 3 environments, expected 2"):
        costs.load_state_dict({"sums": np.zeros(3)})
