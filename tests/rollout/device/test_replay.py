"""A replay buffer on the device holds and gives what SB3's does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from daft_rl.rollout.device.replay import DeviceReplayBuffer, SampleNormalization
from daft_rl.rollout.device.wrappers import Normalization
from tests.rollout.device.test_on_policy import LinearWorlds, WorldsVecEnv
from tests.rollout.device.waiting import NeverWaits

WORLDS = 5
OBSERVATIONS, ACTIONS = spaces.Box(-np.inf, np.inf, (3,)), spaces.Box(-1.0, 1.0, (2,))
NAMES = ("observations", "actions", "next_observations", "dones", "rewards")


def pair(steps: int, timeouts: bool = True, size: int = 7 * WORLDS + 2) -> tuple[DeviceReplayBuffer, ReplayBuffer]:
    """Our buffer and SB3's after the same steps. An observation counts the transitions."""
    ours = DeviceReplayBuffer(size, OBSERVATIONS, ACTIONS, "cpu", WORLDS, timeouts)
    theirs = ReplayBuffer(size, OBSERVATIONS, ACTIONS, "cpu", WORLDS, handle_timeout_termination=timeouts)
    rng = np.random.default_rng(0)
    for step in range(steps):
        observation = np.repeat(step * WORLDS + np.arange(WORLDS, dtype=np.float32)[:, None], 3, 1)
        action, reward = rng.uniform(-1, 1, (WORLDS, 2)).astype(np.float32), rng.normal(size=WORLDS).astype(np.float32)
        terminated, late = rng.random((2, WORLDS)) < 0.3
        truncated = late & ~terminated
        arrays = (observation, observation + 0.5, action, reward)
        ours.add(*map(torch.as_tensor, (*arrays, terminated, truncated)))
        theirs.add(*arrays, terminated | truncated, [{"TimeLimit.truncated": value} for value in truncated])
    return ours, theirs


@pytest.mark.parametrize("timeouts", [True, False])
@pytest.mark.parametrize("steps", [1, 4, 7, 18])
def test_what_it_holds_is_what_sb3s_holds(steps: int, timeouts: bool) -> None:
    ours, theirs = pair(steps, timeouts)
    assert (ours.pos, ours.full, ours.size()) == (theirs.pos, theirs.full, theirs.size())
    index = np.arange(ours.size() * WORLDS)
    found = ours._get_samples(torch.as_tensor(index))
    rows, worlds = np.divmod(index, WORLDS)
    expected = {name: getattr(theirs, name)[rows, worlds] for name in NAMES}
    expected["dones"] = (expected["dones"] * (1 - theirs.timeouts[rows, worlds])).reshape(-1, 1)
    expected["rewards"] = expected["rewards"].reshape(-1, 1)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(found, name), expected[name], err_msg=name)


@pytest.mark.parametrize("steps", [2, 18])
def test_every_transition_is_drawn_equally_often(steps: int) -> None:
    ours, _ = pair(steps)
    count, draws = ours.size() * WORLDS, 20_000
    drawn = ours.sample(draws).observations[:, 0]
    found, times = torch.unique(drawn, return_counts=True)
    assert torch.equal(found, ours.observations[: ours.size()].reshape(-1, 3)[:, 0].sort().values)
    deviation = (times - draws / count) / (draws / count * (1 - 1 / count)) ** 0.5
    assert deviation.abs().max() < 4.5


def test_parts_of_a_sample_belong_together() -> None:
    ours, theirs = pair(18)
    sample = ours.sample(50)
    np.testing.assert_array_equal(sample.next_observations, sample.observations + 0.5)
    place = {float(value): i for i, value in enumerate(theirs.observations[..., 0].flatten())}
    rows = [place[float(value)] for value in sample.observations[:, 0]]
    np.testing.assert_array_equal(sample.actions, theirs.actions.reshape(-1, 2)[rows])
    np.testing.assert_array_equal(sample.rewards[:, 0], theirs.rewards.flatten()[rows])


def test_a_captured_call_follows_the_growth_of_the_buffer() -> None:
    """The number of transitions is read from a tensor that stays where it is."""
    ours, _ = pair(1)
    count = ours._count
    ours.add(*(torch.zeros(WORLDS, n) for n in (3, 3, 2)), *(torch.zeros(WORLDS) for _ in range(3)))
    assert ours._count is count
    assert int(count) == 2 * WORLDS
    ours.reset()
    assert (int(count), ours.size()) == (0, 0)


def test_neither_adding_nor_sampling_waits_for_the_device() -> None:
    ours, _ = pair(3)
    with NeverWaits():
        ours.add(*(torch.zeros(WORLDS, n) for n in (3, 3, 2)), *(torch.zeros(WORLDS) for _ in range(3)))
        ours.sample(4)


@pytest.mark.parametrize(("norm_obs", "norm_reward"), [(True, True), (True, False), (False, True)])
def test_samples_are_normalized_as_vecnormalize_does(norm_obs: bool, norm_reward: bool) -> None:
    ours, theirs = pair(18)
    worlds: Any = LinearWorlds()
    venv: Any = VecNormalize(WorldsVecEnv(worlds), norm_obs=norm_obs, norm_reward=norm_reward, clip_obs=1.5)
    normalization = Normalization(venv, worlds)
    venv.reset()
    normalization.load()
    sampled = SampleNormalization(normalization)
    if norm_obs:
        venv.obs_rms.mean, venv.obs_rms.var = np.array([40.0, 50.0, 60.0]), np.array([400.0, 100.0, 900.0])
    venv.ret_rms.var = np.array(0.3)
    normalization.load()
    sampled.refresh(normalization)
    index = np.arange(ours.size() * WORLDS)
    found = ours._get_samples(torch.as_tensor(index), sampled)
    rows, at = np.divmod(index, WORLDS)
    np.testing.assert_allclose(found.observations, venv.normalize_obs(theirs.observations[rows, at]), rtol=1e-6)
    np.testing.assert_allclose(
        found.next_observations, venv.normalize_obs(theirs.next_observations[rows, at]), rtol=1e-6
    )
    np.testing.assert_allclose(found.rewards[:, 0], venv.normalize_reward(theirs.rewards[rows, at]), rtol=1e-6)
