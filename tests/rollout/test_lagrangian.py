"""The limit on costs: what the learner gets, how the multiplier moves, and that measured returns stay pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from daft_rl.archives import read_multiplier, save_agent
from daft_rl.envs.domain import Domain
from daft_rl.envs.episode_costs import EpisodeCosts
from daft_rl.errors import ConfigError
from daft_rl.rollout.evaluation import evaluate
from daft_rl.rollout.lagrangian import Lagrangian, find_constraint
from daft_rl.rollout.profile import Profile
from daft_rl.rollout.returns import Returns
from daft_rl.run.monitoring import Monitoring
from daft_rl.run.run import Run
from daft_rl.settings import Evaluation, TransferSettings
from daft_rl.transfer import transfer
from tests.conftest import PointMass, parse


class Costly(gym.Env):
    """Five steps of reward 1; each costs what the action says."""

    observation_space = spaces.Box(-1.0, 1.0, (1,))
    action_space = spaces.Box(0.0, 10.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.total = 0, 0.0
        return np.zeros(1, np.float32), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.total += float(action[0])
        info = {"cost": float(action[0]), "episode_cost": self.total}
        return np.zeros(1, np.float32), 1.0, False, self.steps >= 5, info


class Tolled(gym.Wrapper):
    """Tells only what a step costs."""

    def __init__(self, env: gym.Env | None = None) -> None:
        super().__init__(env or Costly())

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        *step, info = self.env.step(action)
        del info["episode_cost"]
        return (*step, info)


gym.register("Tolled-v0", entry_point=lambda **kwargs: Tolled(**kwargs))


def play(venv: Lagrangian, cost: float, steps: int) -> list[NDArray[Any]]:
    venv.reset()
    return [venv.step(np.full((venv.num_envs, 1), cost, np.float32))[1] for _ in range(steps)]


def test_reward_and_multiplier() -> None:
    venv = Lagrangian(DummyVecEnv([Costly] * 2), limit=10.0, rate=0.5)
    rewards = play(venv, cost=4.0, steps=6)
    np.testing.assert_allclose(rewards[:5], 1.0)
    assert venv.mean_cost == 20.0
    assert venv.multiplier == pytest.approx(0.5 * (20 / 10 - 1))
    np.testing.assert_allclose(rewards[5], (1 - 0.5 * 4) / 1.5)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 10, width=32), min_size=1, max_size=8), st.floats(0.5, 50))
def test_one_update_per_batch_of_episodes(costs: list[float], limit: float) -> None:
    venv = Lagrangian(DummyVecEnv([Costly] * 3), limit=limit, rate=0.1)
    expected = 0.0
    for cost in costs:
        play(venv, cost, steps=5)
        assert venv.mean_cost is not None
        assert venv.mean_cost == pytest.approx(5 * cost, rel=1e-5)
        expected = max(0.0, expected + 0.1 * (venv.mean_cost / limit - 1.0))
        assert venv.multiplier == pytest.approx(expected)


@given(st.lists(st.floats(0, 10, width=32), min_size=1, max_size=13))
@settings(max_examples=20, deadline=None)
def test_costs_of_steps_are_summed_up(costs: list[float]) -> None:
    told, summed = DummyVecEnv([Costly] * 2), EpisodeCosts(DummyVecEnv([Tolled] * 2))
    told.reset()
    summed.reset()
    for cost in costs:
        action = np.array([[cost], [cost / 2]], np.float32)
        expected = [info["episode_cost"] for info in told.step(action)[3]]
        assert [info["episode_cost"] for info in summed.step(action)[3]] == expected
    summed.reset()
    assert summed.step(action)[3][0]["episode_cost"] == action[0]


class Told(PointMass):
    """Says at each step that the cost is the one given."""

    def __init__(self, cost: Any) -> None:
        super().__init__()
        self.cost = cost

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        return *super().step(action)[:4], {"cost": self.cost}


@pytest.mark.parametrize("cost", [True, 1, 1.0, np.bool_(True), np.float32(1), np.array(1.0), np.array([1.0])])
def test_any_single_number_is_a_cost(cost: Any) -> None:
    venv = EpisodeCosts(DummyVecEnv([lambda: Told(cost)]))
    venv.reset()
    assert [venv.step(np.zeros((1, 2)))[3][0]["episode_cost"] for _ in range(2)] == [1.0, 2.0]


@pytest.mark.parametrize("cost", [None, "1", [1.0, 2.0]])
def test_other_things_are_none(cost: Any) -> None:
    venv = EpisodeCosts(DummyVecEnv([lambda: Told(cost)]))
    venv.reset()
    assert "episode_cost" not in venv.step(np.zeros((1, 2)))[3][0]


def test_what_is_no_cost_is_left_alone() -> None:
    venv = EpisodeCosts(DummyVecEnv([PointMass]))
    venv.reset()
    assert "episode_cost" not in venv.step(np.zeros((1, 2)))[3][0]


@pytest.mark.parametrize("how", ["object", "id"])
def test_a_limit_in_an_environment_of_ones_own(how: str, tmp_path: Path) -> None:
    source = PPO("MlpPolicy", Tolled(), n_steps=32, batch_size=32, device="cpu")
    source.save(tmp_path / "source.zip")
    result = transfer(
        Tolled if how == "object" else "gymnasium",
        "ft",
        source=source if how == "object" else tmp_path / "source.zip",
        total_timesteps=128,
        output_dir=tmp_path / "run",
        settings=parse(
            [
                *(["env.id=Tolled-v0"] if how == "id" else []),
                *("env.cost_limit=0.5", "env.cost_rate=5", "num_envs=2", "algo.settings.n_steps=32", "vec=dummy"),
                *("calibration.steps=32", "calibration.held_out=8", "evaluation.episodes=2", "progress_bar=false"),
            ]
        ),
    )
    assert result.final["target"].costs is not None
    assert json.loads((tmp_path / "run" / "constraint.json").read_text())["multiplier"] > 0
    assert "episode_cost" in (tmp_path / "run" / "monitor.csv").read_text()


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_learners_are_penalised_and_measured_returns_are_not(algorithm: type[Any]) -> None:
    venv = Lagrangian(VecMonitor(DummyVecEnv([Costly] * 2), info_keywords=("episode_cost",)), limit=0.5, rate=5.0)
    settings = {"n_steps": 64, "batch_size": 64} if algorithm is PPO else {"learning_starts": 64}
    model = algorithm("MlpPolicy", venv, seed=0, device="cpu", **settings)
    model.learn(256)
    assert venv.multiplier > 0, "random actions cost more"
    assert {episode["r"] for episode in model.ep_info_buffer or ()} == {5.0}, "the log has the task's own returns"
    returns = evaluate(model, DummyVecEnv([Costly] * 2), episodes=2, seed=0)
    assert returns.returns == [5.0, 5.0]
    assert returns.costs is not None
    assert returns.mean_cost == pytest.approx(np.mean(returns.costs))


def test_a_task_without_cost_is_refused() -> None:
    venv = Lagrangian(DummyVecEnv([PointMass]), limit=5.0)
    venv.reset()
    with pytest.raises(ConfigError, match="needs `cost`"):
        venv.step(np.zeros((1, 2)))
    model = PPO("MlpPolicy", PointMass(), n_steps=8, batch_size=8)
    assert evaluate(model, DummyVecEnv([PointMass]), 1, 0).costs is None


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf"), True, "25"])
def test_impossible_limits(limit: Any) -> None:
    with pytest.raises(ConfigError, match=r"cost\.limit: expected a (finite )?number( above 0)?, got"):
        Lagrangian(DummyVecEnv([Costly]), limit=limit)
    Lagrangian(DummyVecEnv([Costly]), limit=1, multiplier=0)
    with pytest.raises(ConfigError, match=r"cost\.multiplier: expected a number of at least 0, got -1"):
        Lagrangian(DummyVecEnv([Costly]), limit=1, multiplier=-1)


def test_a_multiplier_goes_on_where_it_was(tmp_path: Path) -> None:
    venv = Lagrangian(VecMonitor(DummyVecEnv([Costly] * 2)), limit=10.0, multiplier=0.7)
    model = PPO("MlpPolicy", venv, n_steps=8, batch_size=8, device="cpu")
    assert read_multiplier(model) == 0.7
    save_agent(model, tmp_path / "final.zip")
    assert read_multiplier(tmp_path / "final.zip") == 0.7
    venv.multiplier = 0.9
    save_agent(model, tmp_path / "best.zip", prefix="best_")
    assert [read_multiplier(tmp_path / name) for name in ("final.zip", "best.zip")] == [0.7, 0.9]
    assert read_multiplier(PPO("MlpPolicy", DummyVecEnv([Costly]), n_steps=8, batch_size=8)) is None
    assert read_multiplier(None) is None
    for chosen, start in ((None, 0.7), (0.2, 0.2), (0.0, 0.0)):
        task = {"name": "own", "cost_limit": 25, "cost_multiplier": chosen}
        settings = TransferSettings.from_dict(
            {"output_dir": tmp_path / "run", "env": task, "method": "ft", "num_envs": 1}
        )
        with Run(settings) as run:
            limited = run.learning_env(Domain("own", maker=Costly), tmp_path / "final.zip")
            constraint = find_constraint(limited)
        assert constraint is not None
        assert constraint.multiplier == start


def test_the_best_policy_is_the_best_within_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What costs too much is only kept until something keeps the limit, whatever it returns."""
    played = iter([(9.0, 30.0), (1.0, 26.0), (8.0, 28.0), (2.0, 25.0), (7.0, 26.0), (3.0, 5.0), (2.5, 0.0)])
    saved: list[float] = []

    def evaluate_all(*_: Any, **__: Any) -> dict[str, Returns]:
        score, cost = next(played)
        saved.append(score)
        return {"target": Returns([score], [1], [cost])}

    monkeypatch.setattr("daft_rl.run.monitoring.evaluate_all", evaluate_all)
    venv = Lagrangian(DummyVecEnv([Costly]), limit=25.0)
    model = PPO("MlpPolicy", venv, n_steps=8, batch_size=8)
    model.set_logger(configure(None, []))
    evaluation = Evaluation(every=1, episodes_during=1, seed=0)
    monitoring = Monitoring({"target": venv}, evaluation, tmp_path / "best.zip", Profile())
    monitoring.init_callback(model)
    kept = []
    for _ in range(7):
        (tmp_path / "best.zip").unlink(missing_ok=True)
        monitoring.evaluate()
        if (tmp_path / "best.zip").exists():
            kept.append(saved[-1])
    assert kept == [9.0, 1.0, 2.0, 3.0]


def test_its_state_goes_on() -> None:
    venv = Lagrangian(VecMonitor(DummyVecEnv([Costly] * 2)), limit=10.0, multiplier=0.7)
    venv.costs, venv.mean_cost = [3.0], 12.0
    other = Lagrangian(VecMonitor(DummyVecEnv([Costly] * 2)), limit=1.0)
    other.load_state_dict(venv.state_dict())
    assert other.state_dict() == venv.state_dict() == {
        "limit": 10.0, "rate": 0.1, "multiplier": 0.7, "mean_cost": 12.0, "costs": [3.0],
    }  # fmt: skip
