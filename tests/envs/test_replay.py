"""An episode goes on in another process: played again from its start, every bit of the simulator is where it was."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.envs import make_vec
from daft_rl.envs.replay import Replayable

CASES = {
    "Ant in threads": ("Ant-shifted", {"action_delay": 2, "observation_noise": 0.1}, "threads"),
    "HalfCheetah in workers": ("HalfCheetah", None, "workers"),
    "Pendulum": ("Pendulum-v1", None, "dummy"),
    "SafetyPointGoal": ("SafetyPointGoal-shifted", None, "dummy"),
    "SafetyPointPush": ("SafetyPointPush1-v0", None, "dummy"),
    "Door": ("Door-shifted", {"action_delay": 1}, "dummy"),
    "Wipe": ("Wipe-shifted", None, "dummy"),
}


def opened(case: str, seed: int) -> VecEnv:
    name, shift, vec = CASES[case]
    venv = make_vec(name, num_envs=2, seed=seed, shift=shift, vec=vec, replayable=True)
    venv.reset()
    return venv


def steps(venv: VecEnv, count: int, seed: int) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any], Any]]:
    """Play with actions that depend on the seed only."""
    draw, low, high = np.random.default_rng(seed), venv.action_space.low, venv.action_space.high  # type: ignore[attr-defined]
    actions = draw.uniform(low, high, (count, 2, *low.shape)).astype(low.dtype)
    return [(np.array(o), r, d, [info.get("cost") for info in infos]) for o, r, d, infos in map(venv.step, actions)]


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow) if case == "Wipe" else case for case in CASES],
)
def test_an_episode_goes_on_in_another_batch(case: str) -> None:
    """The episode began without a seed, from generators that an earlier one had moved."""
    first, other = opened(case, seed=1), opened(case, seed=50)
    try:
        steps(first, 3, seed=2)
        first.reset()
        steps(first, 7, seed=3)
        steps(other, 4, seed=4)
        other.env_method("replay", dict(enumerate(first.env_method("episode"))))
        for one, again in zip(steps(first, 12, seed=5), steps(other, 12, seed=5), strict=True):
            for part, part_again in zip(one, again, strict=True):
                np.testing.assert_array_equal(part, part_again)
    finally:
        first.close()
        other.close()


def test_an_episode_that_began_with_a_seed_goes_on() -> None:
    first, other = opened("Ant in threads", seed=1), opened("Ant in threads", seed=50)
    steps(first, 5, seed=3)
    other.env_method("replay", dict(enumerate(first.env_method("episode"))))
    np.testing.assert_array_equal(steps(first, 1, seed=5)[0][0], steps(other, 1, seed=5)[0][0])
    first.close()
    other.close()


@pytest.mark.parametrize("case", ["Ant in threads", "Pendulum"])
def test_an_episode_that_begins_after_the_end_of_one_goes_on(case: str) -> None:
    """A batch resets its environments by itself."""
    first, other = opened(case, seed=1), opened(case, seed=50)
    played = steps(first, 230 if case == "Pendulum" else 1010, seed=2)
    assert any(dones.any() for _, _, dones, _ in played)
    other.env_method("replay", dict(enumerate(first.env_method("episode"))))
    for one, again in zip(steps(first, 5, seed=5), steps(other, 5, seed=5), strict=True):
        np.testing.assert_array_equal(one[0], again[0])
    first.close()
    other.close()


class NoisyReward(gym.Wrapper[Any, Any, Any, Any]):
    """Draws from a generator of its own, which no observation shows."""

    def __init__(self, env: gym.Env, seed: int) -> None:
        super().__init__(env)
        self.rng = np.random.default_rng(seed)

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward) + self.rng.normal(), terminated, truncated, info


def test_generators_of_wrappers_go_on() -> None:
    first, other = (Replayable(NoisyReward(gym.make("Pendulum-v1"), seed), 0) for seed in (1, 2))
    first.reset(seed=3)
    other.reset(seed=4)
    first.reset()
    for _ in range(3):
        first.step(np.ones(1, np.float32))
    other.replay({0: first.episode()})
    assert first.step(np.ones(1, np.float32))[1] == other.step(np.ones(1, np.float32))[1]


class Stricter(gym.Wrapper[Any, Any, Any, Any]):
    """Rewards less in each further episode."""

    episodes = 0

    def reset(self, **arguments: Any) -> Any:
        self.episodes += 1
        return self.env.reset(**arguments)

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward) - self.episodes, terminated, truncated, info


@pytest.mark.parametrize(("further", "same"), [(1, True), (2, False)])
def test_rewards_tell_that_something_else_decides(further: int, same: bool) -> None:
    first, other = (Replayable(Stricter(gym.make("Pendulum-v1")), 0) for _ in range(2))
    other.reset(seed=3)
    for _ in range(1 + further):
        first.reset(seed=3)
    first.step(np.ones(1, np.float32))
    problem = "" if same else "an episode gave other rewards"
    assert other.replay({0: first.episode()})[1] == problem


@pytest.mark.parametrize("vec", ["dummy", "workers"])
def test_a_batch_goes_on_after_a_replay_that_raised(vec: str) -> None:
    """It starts new episodes then."""
    venv = make_vec("Pendulum-v1", num_envs=2, seed=1, vec=vec, replayable=True)
    venv.reset()
    assert venv.env_method("replay", {0: {}, 1: {}})[1] == (None, "an episode raised KeyError: 'generators'")
    venv.reset()
    steps(venv, 1, seed=2)
    venv.close()
