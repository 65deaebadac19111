"""Rollouts on the device hold what SB3's rollouts hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecMonitor, VecNormalize

from daft_rl.agents import BatchNormExtractor
from daft_rl.archives import load_agent
from daft_rl.finetune import adapt
from daft_rl.rollout.device.collection import find_device_env
from daft_rl.rollout.device.on_policy import DeviceRolloutBuffer, DeviceRollouts, collect_on_policy
from daft_rl.rollout.evaluation import SHORTEST_VISIT, visit
from daft_rl.rollout.lagrangian import Lagrangian
from daft_rl.rollout.profile import Profile, TimedVecEnv
from tests.rollout.device.waiting import NeverWaits

pytest.importorskip("mujoco_warp", reason="worlds need the extra `cuda`")

from daft_rl.envs.cuda.vec_env import WorldsVecEnv
from daft_rl.envs.cuda.worlds import Step

WORLDS = 6


class LinearWorlds:
    """Points that drift and are pushed. Each has a time limit of its own, and ends when it is far away."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-1.0, 2.0, (2,), np.float32)
    render_mode = None
    num_worlds, device = WORLDS, torch.device("cpu")

    def __init__(self) -> None:
        self.checks = 0
        self.limits = torch.arange(5, 5 + WORLDS)
        self.push = torch.tensor([0.3, -0.2, 0.1])
        self.mix = torch.tensor([[0.9, 0.1, 0.0], [0.0, 1.02, 0.0], [0.1, 0.0, 0.8]])

    def seed(self, seed: int) -> None: ...

    def _start(self) -> torch.Tensor:
        return torch.linspace(-1.0, 1.0, WORLDS * 3).reshape(WORLDS, 3)

    def reset(self) -> torch.Tensor:
        self.state, self.elapsed = self._start(), torch.zeros(WORLDS, dtype=torch.int32)
        self.cost_so_far = torch.zeros(WORLDS)
        return self.state

    def step(self, action: torch.Tensor) -> Step:
        self.state = self.state @ self.mix + action.clamp(-1.0, 2.0).sum(1, keepdim=True) * self.push
        self.elapsed = self.elapsed + 1
        terminated = self.state.abs().amax(1) > 3.0
        truncated = (self.elapsed >= self.limits) & ~terminated
        done = terminated | truncated
        cost = (self.state[:, 0] > 0.5).float()
        self.cost_so_far = self.cost_so_far + cost
        extras = {"cost": cost, "episode_cost": self.cost_so_far, "is_success": self.state[:, 1] > 0.0}
        final, reward = self.state, -self.state.square().sum(1)
        self.state = torch.where(done[:, None], self._start(), self.state)
        self.elapsed, self.cost_so_far = torch.where(done, 0, self.elapsed), torch.where(done, 0.0, self.cost_so_far)
        return Step(self.state, reward, terminated, truncated, final, extras)

    def check(self) -> None:
        self.checks += 1


def wrapped(folder: Path) -> VecEnv:
    """All wrappers of a run around the worlds."""
    timed = TimedVecEnv(WorldsVecEnv(LinearWorlds()), Profile())  # type: ignore[arg-type]
    monitor = VecMonitor(timed, str(folder / "monitor.csv"), info_keywords=("episode_cost",))
    return VecNormalize(Lagrangian(monitor, limit=1.0, rate=0.5, multiplier=0.2), gamma=0.95)


def agent(venv: VecEnv, algorithm: type[Any] = PPO, **settings: Any) -> Any:
    settings = {"n_steps": 16} | ({"batch_size": 32, "n_epochs": 2} if algorithm is PPO else {}) | settings
    extractor = {"features_extractor_class": BatchNormExtractor, "features_extractor_kwargs": {"hidden": [8]}}
    return algorithm("MlpPolicy", venv, policy_kwargs=extractor, seed=0, device="cpu", **settings)


class KeepsBuffer(BaseCallback):
    """Copies what each rollout holds."""

    def __init__(self) -> None:
        super().__init__()
        self.rollouts: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
        names = ("observations", "actions", "rewards", "values", "log_probs", "advantages", "returns", "episode_starts")
        self.rollouts.append({name: np.array(getattr(buffer, name), dtype=np.float32) for name in names})


def collect(model: BaseAlgorithm, rollouts: int = 3) -> KeepsBuffer:
    """Collect without learning."""
    keeper = KeepsBuffer()
    torch.manual_seed(1)
    model.train = lambda: None  # type: ignore[attr-defined]
    model.learn(rollouts * 16 * WORLDS, callback=keeper)
    return keeper


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_a_rollout_holds_what_sb3_would_have_collected(tmp_path: Path, algorithm: type[Any]) -> None:
    (tmp_path / "own").mkdir()
    theirs, ours = agent(wrapped(tmp_path), algorithm), agent(wrapped(tmp_path / "own"), algorithm)
    assert collect_on_policy(ours)
    expected, found = collect(theirs), collect(ours)
    assert isinstance(ours.rollout_buffer, DeviceRolloutBuffer)
    for before, after in zip(expected.rollouts, found.rollouts, strict=True):
        for name, values in before.items():
            np.testing.assert_allclose(after[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_wrappers_know_afterwards_what_they_would_know(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    theirs, ours = agent(wrapped(tmp_path)), agent(wrapped(tmp_path / "own"))
    collect_on_policy(ours)
    collect(theirs), collect(ours)
    expected, found = theirs.get_env(), ours.get_env()
    np.testing.assert_allclose(found.obs_rms.mean, expected.obs_rms.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.obs_rms.var, expected.obs_rms.var, rtol=1e-5)
    np.testing.assert_allclose(found.ret_rms.var, expected.ret_rms.var, rtol=1e-5)
    np.testing.assert_allclose(found.returns, expected.returns, rtol=1e-5)
    assert found.ret_rms.count == pytest.approx(expected.ret_rms.count)
    before, after = expected.venv, found.venv
    assert after.multiplier == pytest.approx(before.multiplier) != 0.2
    assert after.mean_cost == pytest.approx(before.mean_cost)
    assert (len(after.costs), sum(after.costs)) == (len(before.costs), pytest.approx(sum(before.costs)))
    np.testing.assert_array_equal(ours._last_episode_starts, theirs._last_episode_starts)
    np.testing.assert_allclose(ours._last_obs, theirs._last_obs, rtol=1e-5)


def test_episodes_are_recorded_as_by_the_monitor(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    theirs, ours = agent(wrapped(tmp_path)), agent(wrapped(tmp_path / "own"))
    collect_on_policy(ours)
    collect(theirs), collect(ours)
    assert len(ours.ep_info_buffer) == len(theirs.ep_info_buffer) > 10
    for after, before in zip(ours.ep_info_buffer, theirs.ep_info_buffer, strict=True):
        assert (after["l"], after["episode_cost"]) == (before["l"], before["episode_cost"])
        assert after["r"] == pytest.approx(before["r"], rel=1e-5)
    assert list(ours.ep_success_buffer) == list(theirs.ep_success_buffer)
    columns = [[line.split(",")[1] for line in (folder / "monitor.csv").read_text().splitlines()[2:]]
               for folder in (tmp_path, tmp_path / "own")]  # fmt: skip
    assert columns[0] == columns[1]


def test_advantages_are_sb3s_bit_for_bit() -> None:
    box, generator = spaces.Box(-1.0, 1.0, (2,)), np.random.default_rng(0)
    theirs: Any
    ours: Any
    theirs, ours = (kind(9, box, box, "cpu", 0.95, 0.98, n_envs=4) for kind in (RolloutBuffer, DeviceRolloutBuffer))
    rewards, values = generator.normal(size=(2, 9, 4)).astype(np.float32)
    starts, last = generator.random((10, 4)) < 0.3, torch.as_tensor(generator.normal(size=4), dtype=torch.float32)
    theirs.rewards, theirs.values, theirs.episode_starts = rewards, values, starts[:-1].astype(np.float32)
    ours.rewards, ours.value_estimates = torch.as_tensor(rewards), torch.as_tensor(values)
    ours.episode_starts = torch.as_tensor(starts[:-1])
    theirs.compute_returns_and_advantage(last, starts[-1])
    ours.compute_returns_and_advantage(last, torch.as_tensor(starts[-1]))
    np.testing.assert_array_equal(ours.advantages, theirs.advantages)
    np.testing.assert_array_equal(ours.returns, theirs.returns)


def test_minibatches_go_through_all_samples_once(tmp_path: Path) -> None:
    model = agent(wrapped(tmp_path))
    collect_on_policy(model)
    collect(model, rollouts=1)
    batches = list(model.rollout_buffer.get(40))
    assert [len(batch.returns) for batch in batches] == [40, 40, 16]
    seen = torch.cat([batch.old_log_prob for batch in batches]).sort().values
    assert torch.equal(seen, model.rollout_buffer.log_probs.flatten().sort().values)


def test_no_step_waits_for_the_device(tmp_path: Path) -> None:
    model = agent(wrapped(tmp_path))
    collect_on_policy(model)
    model._setup_learn(96)
    worlds, buffer = find_device_env(model), model._empty_buffer()
    assert worlds is not None
    worlds.load(model)
    with NeverWaits():
        model._collect_step(worlds, buffer)
    assert buffer.pos == 1


def test_the_guards_are_read_once_per_rollout(tmp_path: Path) -> None:
    model = agent(wrapped(tmp_path))
    collect_on_policy(model)
    collect(model, rollouts=3)
    assert model.get_env().unwrapped.worlds.checks == 3


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_an_adapted_agent_learns_and_plain_sb3_opens_it(tmp_path: Path, algorithm: type[Any]) -> None:
    model = agent(wrapped(tmp_path), algorithm)
    assert collect_on_policy(model)
    adaptation = adapt(model, "daft", calibration_steps=64, seed=1)
    before = model.policy.action_net.weight.detach().clone()
    model.learn(400, callback=adaptation)
    assert not torch.equal(model.policy.action_net.weight, before)
    assert type(model).__name__ == algorithm.__name__
    assert isinstance(model, DeviceRollouts)
    model.save(tmp_path / "agent.zip")
    opened = algorithm.load(tmp_path / "agent.zip")
    assert type(opened) is algorithm
    observation = np.ones((4, 3), dtype=np.float32)
    found, expected = (one.predict(observation, deterministic=True)[0] for one in (opened, model))
    np.testing.assert_array_equal(found, expected)
    load_agent(tmp_path / "agent.zip")


def test_a_wrapper_that_speaks_numpy_only_leaves_collecting_to_sb3(tmp_path: Path) -> None:
    model = agent(VecFrameStack(WorldsVecEnv(LinearWorlds()), 2))  # type: ignore[arg-type]
    assert not collect_on_policy(model)
    assert type(model) is PPO
    model.learn(96)


def test_another_environment_later_is_collected_from_by_sb3(tmp_path: Path) -> None:
    model = agent(WorldsVecEnv(LinearWorlds()))  # type: ignore[arg-type]
    assert collect_on_policy(model)
    model.learn(96)
    model.set_env(VecFrameStack(WorldsVecEnv(LinearWorlds()), 1))  # type: ignore[arg-type]
    model.rollout_buffer = RolloutBuffer(16, model.observation_space, model.action_space, "cpu", 0.95, 0.99, WORLDS)
    model.learn(96)


def test_a_visit_of_many_worlds_sees_whole_episodes(tmp_path: Path) -> None:
    model = agent(WorldsVecEnv(LinearWorlds()))  # type: ignore[arg-type]
    observations, actions = visit(model, model.get_env(), 2 * WORLDS, seed=None)
    assert len(observations) == len(actions) == SHORTEST_VISIT
    first = LinearWorlds().reset().numpy()
    at_start = (observations[:, None] == first).all(-1).any(1)
    assert 0 < at_start.sum() < SHORTEST_VISIT / 4
