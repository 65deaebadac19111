"""Off-policy algorithms on the device collect what SB3's collect, and learn."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack
from torch.utils._python_dispatch import _disable_current_modes

from daft_rl.errors import AgentError, ConfigError
from daft_rl.finetune import adapt
from daft_rl.rollout.device import off_policy
from daft_rl.rollout.device.off_policy import DeviceOffPolicy, learn_off_policy
from daft_rl.rollout.device.replay import DeviceReplayBuffer
from tests.conftest import PointMass
from tests.rollout.device.test_on_policy import WORLDS, LinearWorlds, Step, WorldsVecEnv, wrapped
from tests.rollout.device.waiting import NeverWaits

LEARNERS = (SAC, TD3, DDPG, TQC, CrossQ)


def agent(venv: VecEnv, algorithm: type[Any] = SAC, **settings: Any) -> Any:
    settings = {"buffer_size": 50 * WORLDS, "learning_starts": 0, "batch_size": 16, "gradient_steps": 2} | settings
    return algorithm("MlpPolicy", venv, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **settings)


def plain(**settings: Any) -> Any:
    """An agent that learns on the device, without wrappers."""
    model = agent(WorldsVecEnv(LinearWorlds()), **settings)  # type: ignore[arg-type]
    assert learn_off_policy(model)
    return model


def noise(std: float = 0.3) -> NormalActionNoise:
    return NormalActionNoise(np.full(2, 0.1), np.full(2, std))


@pytest.mark.parametrize("algorithm", [SAC, TD3, CrossQ])
def test_the_buffer_holds_what_sb3_would_have_collected(tmp_path: Path, algorithm: type[Any]) -> None:
    (tmp_path / "own").mkdir()
    theirs = agent(wrapped(tmp_path), algorithm, gradient_steps=0)
    ours = agent(wrapped(tmp_path / "own"), algorithm, gradient_steps=0)
    assert learn_off_policy(ours)
    for model in (theirs, ours):
        torch.manual_seed(1)
        model.learn(70 * WORLDS)
    buffer, expected = ours.replay_buffer, theirs.replay_buffer
    assert isinstance(buffer, DeviceReplayBuffer)
    assert (buffer.pos, buffer.full) == (expected.pos, expected.full) == (20, True)
    for name in ("observations", "next_observations", "actions", "rewards"):
        np.testing.assert_allclose(getattr(buffer, name), getattr(expected, name), rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(buffer.dones, expected.dones * (1 - expected.timeouts))
    assert 0 < buffer.dones.sum() < expected.dones.sum()


def test_wrappers_log_and_episodes_are_those_of_sb3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(off_policy, "READ_EVERY", 16)
    (tmp_path / "own").mkdir()
    theirs, ours = agent(wrapped(tmp_path), gradient_steps=0), agent(wrapped(tmp_path / "own"), gradient_steps=0)
    learn_off_policy(ours)
    for model in (theirs, ours):
        torch.manual_seed(1)
        model.learn(40 * WORLDS)
    expected, found = theirs.get_env(), ours.get_env()
    np.testing.assert_allclose(found.obs_rms.mean, expected.obs_rms.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.ret_rms.var, expected.ret_rms.var, rtol=1e-5)
    assert found.venv.multiplier == pytest.approx(expected.venv.multiplier) != 0.2
    np.testing.assert_allclose(ours._last_obs, theirs._last_obs, rtol=1e-5)
    assert ours._episode_num == theirs._episode_num > 10
    assert [episode["l"] for episode in ours.ep_info_buffer] == [episode["l"] for episode in theirs.ep_info_buffer]
    assert ours.num_timesteps == theirs.num_timesteps == 40 * WORLDS


class UnwatchedWorlds(LinearWorlds):
    """Their own steps may wait."""

    def step(self, action: torch.Tensor) -> Step:
        with _disable_current_modes():
            return super().step(action)


def watched(method: Any) -> Any:
    def watch(*args: Any, **kwargs: Any) -> Any:
        with NeverWaits():
            return method(*args, **kwargs)

    return watch


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the path of a GPU."""
    monkeypatch.setattr(off_policy, "Updates", partial(off_policy.Updates, captured=True))


@pytest.mark.usefixtures("captured")
@pytest.mark.parametrize("algorithm", LEARNERS)
def test_it_learns_without_waiting_for_the_device(algorithm: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(off_policy.DeviceLearning, "read", lambda *_: None)
    venv: Any = WorldsVecEnv(UnwatchedWorlds())  # type: ignore[arg-type]
    model = agent(venv, algorithm, learning_starts=4 * WORLDS, action_noise=noise())
    assert learn_off_policy(model)
    before = [parameter.detach().clone() for parameter in model.actor.parameters()]
    for name in ("collect_rollouts", "train"):
        monkeypatch.setattr(DeviceOffPolicy, name, watched(getattr(DeviceOffPolicy, name)))
    model.learn(12 * WORLDS)
    assert model._n_updates == 2 * 8
    assert not any(map(torch.equal, model.actor.parameters(), before))


def test_before_learning_starts_actions_are_uniform_and_noise_is_added_to_all() -> None:
    model = plain(learning_starts=1000 * WORLDS, buffer_size=1000 * WORLDS)
    model.learn(300 * WORLDS)
    actions = model.replay_buffer.actions[:300].flatten()
    assert actions.abs().max() <= 1.0
    np.testing.assert_allclose(torch.histc(actions, 4, -1.0, 1.0) / len(actions), 0.25, atol=0.03)
    assert model._n_updates == 0
    model = plain(algorithm=TD3, learning_starts=0, gradient_steps=0, action_noise=noise(0.05))
    model.learn(50 * WORLDS)
    with torch.no_grad():
        deterministic = model.actor(model.replay_buffer.observations.flatten(0, 1))
    added = model.replay_buffer.actions.flatten(0, 1) - deterministic
    inside = deterministic.abs() < 0.7
    assert float(added[inside].mean()) == pytest.approx(0.1, abs=0.02)
    assert float(added[inside].std()) == pytest.approx(0.05, rel=0.2)


@pytest.mark.parametrize(("train_freq", "gradient_steps", "updates"), [(1, 3, 27), (2, 3, 12), (2, -1, 4 * 2 * WORLDS)])
def test_updates_per_step_are_those_of_sb3(train_freq: int, gradient_steps: int, updates: int) -> None:
    """Ten steps of all worlds; learning starts when more than the first were made."""
    settings = {"learning_starts": WORLDS, "train_freq": train_freq, "gradient_steps": gradient_steps}
    ours = plain(**settings)
    theirs = agent(WorldsVecEnv(LinearWorlds()), **settings)  # type: ignore[arg-type]
    for model in (ours, theirs):
        model.learn(10 * WORLDS)
    if train_freq == 2:
        updates += 3 if gradient_steps == 3 else 2 * WORLDS
    assert ours._n_updates == theirs._n_updates == updates


@pytest.mark.parametrize("algorithm", LEARNERS)
def test_an_adapted_agent_learns_and_plain_sb3_opens_it(tmp_path: Path, algorithm: type[Any]) -> None:
    model = agent(wrapped(tmp_path), algorithm, learning_starts=20 * WORLDS)
    assert learn_off_policy(model)
    adaptation = adapt(model, "daft", calibration_steps=64, seed=1, insert_batchnorm=True)
    before = model.policy.state_dict()["actor.mu.weight" if algorithm in (SAC, TQC, CrossQ) else "actor.mu.0.weight"]
    before = before.clone()
    model.learn(40 * WORLDS, callback=adaptation)
    assert type(model).__name__ == algorithm.__name__
    assert DeviceOffPolicy in type(model).__mro__
    assert not any(torch.equal(before, p) for p in model.actor.parameters() if p.shape == before.shape)
    assert np.isfinite(model.logger.name_to_value.get("train/critic_loss", 0.0))
    model.save(tmp_path / "agent.zip")
    opened = algorithm.load(tmp_path / "agent.zip")
    assert type(opened) is algorithm
    observation = np.ones((4, 3), dtype=np.float32)
    expected = model.predict(observation, deterministic=True)[0]
    np.testing.assert_array_equal(opened.predict(observation, deterministic=True)[0], expected)


def test_learning_goes_on_with_the_same_buffer() -> None:
    model = plain()
    model.learn(10 * WORLDS)
    buffer = model.replay_buffer
    model.learn(10 * WORLDS, reset_num_timesteps=False)
    assert model.replay_buffer is buffer
    assert (buffer.pos, model.num_timesteps, model._n_updates) == (20, 20 * WORLDS, 40)


class NumbWorlds(LinearWorlds):
    """Take any action."""

    def step(self, action: torch.Tensor) -> Step:
        return super().step(action.nan_to_num(0.0))


@pytest.mark.usefixtures("captured")
def test_losses_that_are_not_finite_are_an_error() -> None:
    model = agent(WorldsVecEnv(NumbWorlds()), learning_rate=1e30)  # type: ignore[arg-type]
    assert learn_off_policy(model)
    with pytest.raises(AgentError, match="SAC diverged"):
        model.learn(60 * WORLDS)


def test_other_noise_is_refused() -> None:
    model = plain(algorithm=TD3, action_noise=OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2)))
    with pytest.raises(ConfigError, match="must be NormalActionNoise or None"):
        model.learn(WORLDS)


def test_what_cannot_run_on_the_device_is_left_to_sb3() -> None:
    class MySAC(SAC):
        def train(self, gradient_steps: int, batch_size: int = 64) -> None: ...

    stacked = agent(VecFrameStack(WorldsVecEnv(LinearWorlds()), 2))  # type: ignore[arg-type]
    own = agent(WorldsVecEnv(LinearWorlds()), MySAC)  # type: ignore[arg-type]
    long = agent(WorldsVecEnv(LinearWorlds()), n_steps=3)  # type: ignore[arg-type]
    discrete = DQN("MlpPolicy", PointMass(discrete=True), device="cpu", buffer_size=100)
    for model in (stacked, own, long, discrete):
        kind = type(model)
        assert not learn_off_policy(model)
        assert type(model) is kind
