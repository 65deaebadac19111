"""The replay buffer is of the agent's kind: hindsight, Atari's small buffers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import DQN, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack
from stable_baselines3.her import GoalSelectionStrategy

from daft_rl.archives import load_agent
from tests.archives.helpers import CHOICE, Spaces, assert_same, edit, make, save

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot be read without running code"),
    pytest.mark.filterwarnings("ignore:.*pickled"),
]
SMALL: dict[str, Any] = {
    "optimize_memory_usage": True,
    "replay_buffer_kwargs": {"handle_timeout_termination": False},
}


def goals() -> gym.Env[Any, Any]:
    return BitFlippingEnv(4, continuous=True)


def hindsight(kind: Any, **kwargs: Any) -> Any:
    return kind(
        "MultiInputPolicy",
        goals(),
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs=kwargs,
        policy_kwargs={"net_arch": [6]},
        **{"buffer_size": 100, "learning_starts": 10, "batch_size": 4, "device": "cpu"},
    )


@pytest.mark.parametrize("kind", [SAC, TD3, TQC])
@pytest.mark.parametrize("strategy", ["final", GoalSelectionStrategy.EPISODE])
def test_hindsight_stays_hindsight(kind: Any, strategy: Any, tmp_path: Path) -> None:
    model = hindsight(kind, n_sampled_goal=3, goal_selection_strategy=strategy)
    path = save(model, tmp_path)
    loaded: Any = load_agent(path, env=goals(), device="cpu")
    assert_same(model, loaded)
    buffer = loaded.replay_buffer
    assert type(buffer) is HerReplayBuffer
    assert (buffer.n_sampled_goal, buffer.buffer_size) == (3, 100)
    assert buffer.goal_selection_strategy is model.replay_buffer.goal_selection_strategy
    loaded.learn(20)
    assert loaded._n_updates > 0
    saved_again = save(load_agent(path, device="cpu"), tmp_path)  # without an environment there is no buffer
    assert type(load_agent(saved_again, env=goals()).replay_buffer) is HerReplayBuffer  # type: ignore[attr-defined]


def test_without_new_goals_the_buffer_is_an_ordinary_one(tmp_path: Path) -> None:
    class Silent(gym.ObservationWrapper):
        def get_wrapper_attr(self, name: str) -> Any:
            if name == "compute_reward":
                raise AttributeError(name)
            return super().get_wrapper_attr(name)

        def observation(self, observation: Any) -> Any:
            return observation

    path = save(hindsight(SAC), tmp_path)
    with pytest.warns(UserWarning, match="no compute_reward"):
        loaded: Any = load_agent(path, env=Silent(goals()))
    assert type(loaded.replay_buffer) is not HerReplayBuffer
    loaded.learn(20)


def test_hindsight_of_sb3_1_is_read(tmp_path: Path) -> None:
    """It had two arguments more."""
    path = save(hindsight(SAC, n_sampled_goal=2), tmp_path)
    edit(path, lambda data: data["replay_buffer_kwargs"].update(online_sampling=True, max_episode_length=50))
    assert load_agent(path, env=goals()).replay_buffer.n_sampled_goal == 2  # type: ignore[attr-defined]


def test_a_buffer_of_the_users_is_named(tmp_path: Path) -> None:
    path = save(make(SAC), tmp_path)
    edit(path, lambda data: data["replay_buffer_class"].update(__module__="mine.buffers"))
    with pytest.warns(UserWarning, match=r"replay_buffer_class.*mine\.buffers.*load_agent\(.*replay_buffer_class="):
        load_agent(path, env=Spaces())


@pytest.mark.parametrize("kind", [DQN, QRDQN])
@pytest.mark.parametrize("old", [False, True], ids=["", "before SB3 1.3"])
def test_small_buffers_load(kind: Any, old: bool, tmp_path: Path) -> None:
    model = make(kind, action_space=CHOICE, **SMALL)
    path = save(model, tmp_path)
    if old:
        edit(path, lambda data: data.pop("replay_buffer_kwargs"))
    assert_same(model, load_agent(path, device="cpu"))
    loaded: Any = load_agent(path, env=Spaces(action_space=CHOICE), device="cpu")
    assert loaded.replay_buffer.optimize_memory_usage
    assert not loaded.replay_buffer.handle_timeout_termination
    loaded.learn(20)
    own: Any = load_agent(
        path, env=Spaces(action_space=CHOICE), replay_buffer_kwargs={"handle_timeout_termination": True}
    )
    assert (own.replay_buffer.optimize_memory_usage, own.replay_buffer.handle_timeout_termination) == (False, True)
    assert not load_agent(path, optimize_memory_usage=False).optimize_memory_usage  # type: ignore[attr-defined]


class Screen(gym.Env):
    """Pictures as Atari's wrappers give them."""

    observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    action_space = spaces.Discrete(4)
    steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), 1.0, False, self.steps >= 5, {}


def screens() -> VecFrameStack:
    return VecFrameStack(DummyVecEnv([Screen]), 4)


@pytest.mark.parametrize("kind", [DQN, QRDQN])
def test_agents_of_atari_load(kind: Any, tmp_path: Path) -> None:
    model = kind("CnnPolicy", screens(), buffer_size=50, learning_starts=4, batch_size=4, device="cpu", **SMALL)
    path = save(model.learn(8), tmp_path)
    assert_same(model, load_agent(path, device="cpu"))
    loaded: Any = load_agent(path, env=screens(), device="cpu")
    assert_same(model, loaded)
    assert loaded.replay_buffer.observations.shape == (50, 1, 4, 36, 36)
    loaded.learn(12)
    assert loaded._n_updates > 0
