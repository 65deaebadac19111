"""Shifts of observations and actions."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.envs import FakeImageEnv

from daft_rl.envs import make
from daft_rl.envs.wrappers import ActionDelay, ObservationShift
from daft_rl.errors import TaskError
from tests.envs.rollouts import rollout


def test_draws_of_the_offset_are_independent() -> None:
    offsets = {
        draw: rollout(make("HalfCheetah", shift={"observation_offset": 0.5, "observation_draw": draw}))[0, :-1]
        for draw in (0, 1)
    }
    plain = rollout(make("HalfCheetah"))[0, :-1]
    assert abs(np.corrcoef(offsets[0] - plain, offsets[1] - plain)[0, 1]) < 0.6


def test_observations_are_scaled_offset_and_noisy() -> None:
    plain = rollout(make("HalfCheetah"))[:, :-1]
    offset = rollout(make("HalfCheetah", shift={"observation_offset": 0.5, "observation_scale": 2.0}))[:, :-1]
    difference = offset - 2 * plain
    np.testing.assert_allclose(difference, np.broadcast_to(difference[0], difference.shape), atol=1e-12)
    assert 0.2 < difference[0].std() < 1.0
    noisy = rollout(make("HalfCheetah", shift={"observation_noise": 0.1}), steps=300)[:, :-1]
    assert (noisy - rollout(make("HalfCheetah"), steps=300)[:, :-1]).std() == pytest.approx(0.1, rel=0.1)


def test_actions_arrive_late() -> None:
    env, late = make("HalfCheetah"), make("HalfCheetah", shift={"action_delay": 2})
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (10, 6)).astype(np.float32)
    env.reset(seed=0)
    late.reset(seed=0)
    expected = [env.step(a)[0] for a in [np.zeros(6, np.float32)] * 2 + list(actions[:-2])]
    np.testing.assert_array_equal(expected, [late.step(a)[0] for a in actions])


def test_delayed_actions_of_a_discrete_space_are_numbers() -> None:
    """FrozenLake uses actions as keys."""
    env = ActionDelay(gym.make("FrozenLake-v1", is_slippery=False), 1)
    env.reset(seed=0)
    assert [int(env.step(action)[0]) for action in (np.int64(2), 1, np.array(0))] == [0, 1, 5]


def test_only_floating_point_observations_can_be_shifted() -> None:
    with pytest.raises(TaskError, match="floating-point"):
        ObservationShift(FakeImageEnv(), noise=0.1)
