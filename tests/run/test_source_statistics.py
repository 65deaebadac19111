"""Whether a run scales rewards is what the critic learnt, where the file was saved for evaluation."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from daft_rl import load_agent, transfer
from daft_rl.errors import ConfigError, DaftWarning
from daft_rl.rollout.reward_scale import measure_reward_scale
from tests.conftest import parse
from tests.envs.test_domain import ON_POLICY, TINY

pytestmark = pytest.mark.filterwarnings("ignore:.*cannot be read without running code")


class Wages(gym.Env):
    """Each of 20 steps is paid, whatever is done."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))
    wage, steps = 30.0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.uniform(-1, 1, 2).astype("float32"), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.np_random.uniform(-1, 1, 2).astype("float32"), self.wage, False, self.steps >= 20, {}


def _make() -> gym.Env:
    return gym.wrappers.TimeLimit(Wages(), 20)


STD = 20.0


def _agent(kind: type[Any], scaled: bool) -> Any:
    """An agent whose critic knows the returns, in which 150 is still to come, and statistics for evaluation."""
    venv: Any = VecNormalize(DummyVecEnv([_make] * 2), gamma=0.8, norm_reward=scaled)
    own: dict[str, Any] = {"n_steps": 8, "batch_size": 8} if kind is PPO else {"learning_starts": 10}
    model: Any = kind("MlpPolicy", venv, gamma=0.8, learning_rate=0.0, seed=0, device="cpu", **own).learn(20)
    last = [
        part for name, part in model.policy.named_modules() if name in ("value_net", "critic.qf0.4", "critic.qf1.4")
    ]
    for layer in last:
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, 150.0 / STD if scaled else 150.0)
    venv.ret_rms.mean, venv.ret_rms.var, venv.ret_rms.count = np.array(130.0), np.array(STD**2), 1e4
    venv.training = venv.norm_reward = False
    return model


@pytest.fixture(scope="module")
def scaled() -> Any:
    return _agent(PPO, True)


@pytest.fixture(scope="module")
def plain() -> Any:
    return _agent(PPO, False)


def _saved(model: Any, folder: Path) -> Path:
    model.save(folder / "agent.zip")
    model.get_vec_normalize_env().save(str(folder / "vecnormalize.pkl"))
    return folder / "agent.zip"


def _measure(model: Any) -> Any:
    return measure_reward_scale(model, DummyVecEnv([_make] * 2), 0)


def test_a_critic_tells_the_scale_of_its_rewards(scaled: Any, plain: Any) -> None:
    assert _measure(scaled).verdict == "scaled"
    assert _measure(plain).verdict == "plain"


@pytest.mark.parametrize("kind", [SAC, TD3])
def test_so_does_a_critic_of_states_and_actions(kind: type[BaseAlgorithm]) -> None:
    assert _measure(_agent(kind, True)).verdict == "scaled"
    assert _measure(_agent(kind, False)).verdict == "plain"


def test_a_critic_that_learnt_nothing_tells_nothing(scaled: Any) -> None:
    fresh = PPO("MlpPolicy", scaled.get_env(), gamma=0.8, seed=0, device="cpu")
    assert _measure(fresh).verdict == "unclear"


@pytest.mark.parametrize(
    ("choice", "expected"), [("auto", True), ("true", True), ("false", False)], ids=["auto", "true", "false"]
)
@pytest.mark.parametrize("given", ["archive", "object"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_transfer_scales_rewards_as_the_critic_learnt_them(
    choice: str, expected: bool, given: str, scaled: Any, tmp_path: Path
) -> None:
    source = _saved(scaled, tmp_path) if given == "archive" else scaled
    settings = parse([f"agent.norm_reward={choice}", *TINY, *ON_POLICY])
    result = transfer(_make, "daft", source=source, total_timesteps=64, output_dir=tmp_path / "run", settings=settings)
    assert result.statistics is not None
    assert result.statistics["norm_reward"] == expected
    told = json.loads((tmp_path / "run" / "results.json").read_text())["statistics"]
    assert told == {"file": "vecnormalize.pkl" if given == "archive" else None, "norm_reward": expected}
    final: Any = load_agent(tmp_path / "run" / "final.zip", env=_make(), device="cpu").get_vec_normalize_env()
    assert final.norm_reward == expected


def test_a_transfer_keeps_plain_rewards_without_a_word(plain: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = transfer(
            _make, "daft", source=_saved(plain, tmp_path), total_timesteps=64, output_dir=tmp_path / "run",
            settings=parse([*TINY, *ON_POLICY]),
        )  # fmt: skip
    assert result.statistics == {"file": "vecnormalize.pkl", "norm_reward": False}
    assert not [one for one in told if "norm_reward" in str(one.message)]


def test_loading_warns_of_values_that_are_too_small(scaled: Any, plain: Any, tmp_path: Path) -> None:
    path = _saved(scaled, tmp_path)
    with pytest.warns(DaftWarning, match="norm_reward=True"):
        load_agent(path, env=_make(), device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DaftWarning)
        loaded: Any = load_agent(path, env=_make(), device="cpu", norm_reward=True)
        load_agent(_saved(plain, tmp_path), env=_make(), device="cpu")
    assert loaded.get_vec_normalize_env().norm_reward


def test_loading_says_nothing_of_a_vecnormalize_that_was_passed(scaled: Any, tmp_path: Path) -> None:
    path = _saved(scaled, tmp_path)
    own: Any = VecNormalize.load(str(tmp_path / "vecnormalize.pkl"), DummyVecEnv([_make]))
    own.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error", DaftWarning)
        assert load_agent(path, env=own, device="cpu").get_vec_normalize_env() is own


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_results_name_the_file_that_was_taken(
    scaled: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = _saved(scaled, tmp_path)
    (tmp_path / "Wages-v0").mkdir()
    (tmp_path / "vecnormalize.pkl").rename(tmp_path / "Wages-v0" / "vecnormalize.pkl")
    archive = archive.rename(tmp_path / "best_model.zip")
    monkeypatch.chdir(tmp_path)
    settings = parse(["method=zero_shot", *TINY, *ON_POLICY])
    result = transfer(_make, "daft", source=archive, output_dir=tmp_path / "run", settings=settings)
    assert result.statistics is not None
    assert result.statistics["file"] == "Wages-v0/vecnormalize.pkl"
    assert "best_model.zip: statistics of VecNormalize from" in capsys.readouterr().err
    given = transfer(
        _make, "daft", source=archive, output_dir=tmp_path / "given",
        settings=settings | {"agent.vecnormalize": "Wages-v0/vecnormalize.pkl"},
    )  # fmt: skip
    assert given.statistics == result.statistics
    assert given.zero_shot == result.zero_shot
    none = transfer(
        _make, "daft", source=archive, output_dir=tmp_path / "none", settings=settings | {"agent.vecnormalize": "none"}
    )
    assert none.statistics is None


def test_an_agent_that_lost_its_statistics_is_told(scaled: Any, tmp_path: Path) -> None:
    scaled.save(tmp_path / "agent.zip")
    lost = PPO.load(tmp_path / "agent.zip", env=_make(), device="cpu")
    with pytest.warns(DaftWarning, match="learnt inside of a VecNormalize, and has none now"):
        transfer(
            _make,
            "daft",
            source=lost,
            output_dir=tmp_path / "run",
            settings=parse(["method=zero_shot", *TINY, *ON_POLICY]),
        )


def test_an_impossible_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match="norm_reward"):
        transfer(_make, source="Ant-ppo", settings={"agent.norm_reward": "maybe"})
