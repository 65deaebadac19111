"""Learning that leaves the finite numbers ends with one message, and the last good policy is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize

from daft_rl.archives import load_agent
from daft_rl.errors import DivergenceError
from daft_rl.files import write_json
from daft_rl.run.divergence import DivergenceWatch, refused_distribution
from daft_rl.run.interruption import Interrupted
from daft_rl.run.snapshot import PolicyCopy, Snapshot, not_finite
from daft_rl.transfer import transfer
from tests.conftest import ON_POLICY, PointMass, algorithms, build, data


def learn(model: Any, path: Path, steps: int = 300) -> DivergenceError:
    """What learning under watch ends with."""
    watch = DivergenceWatch(path)
    model.set_logger(Logger(None, []))
    with pytest.raises(DivergenceError) as caught, watch.keeping_the_good():
        model.learn(steps, callback=watch)
    return caught.value


@pytest.mark.parametrize("name", algorithms())
def test_weights_that_are_not_finite_end_learning_and_the_last_good_ones_are_kept(name: str, tmp_path: Path) -> None:
    model: Any = build(name)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    train = type(model).train

    def spoil(*args: Any, **kwargs: Any) -> None:
        train(model, *args, **kwargs)
        with torch.no_grad():
            next(model.policy.parameters()).fill_(math.nan)
        model.logger.record("train/loss", math.nan)

    model.train = spoil
    error = learn(model, tmp_path / "last_good.zip")
    assert "is nan after" in str(error)
    assert "The policy of step 0 is in last_good.zip" in str(error)
    for policy in (model.policy, load_agent(tmp_path / "last_good.zip").policy):
        assert all(torch.equal(value, before[key]) for key, value in policy.state_dict().items())


@pytest.mark.parametrize("name", ["PPO", "A2C", "SAC", "DQN", "TD3"])
def test_a_learning_rate_that_is_far_too_high_ends_learning(name: str, tmp_path: Path) -> None:
    kept = {"A2C": {"use_rms_prop": False}}.get(name, {})
    error = learn(build(name, learning_rate=1e20, **kept), tmp_path / "last_good.zip", 400)
    assert "learning has diverged" in str(error)
    assert error.arguments == ("learning_rate",)
    load_agent(tmp_path / "last_good.zip")


def test_statistics_of_a_vecnormalize_that_overflow_are_seen() -> None:
    model = build("PPO")
    model.set_env(VecNormalize(model.get_env()))  # type: ignore[arg-type]
    normalizer: Any = model.get_vec_normalize_env()
    good = Snapshot(model)
    assert not_finite(model) is None
    normalizer.obs_rms.var[1] = np.inf
    assert not_finite(model) == "The var of VecNormalize's obs_rms is inf"
    good.restore()
    assert not_finite(model) is None


def test_losses_that_may_be_nan_are_left_alone(tmp_path: Path) -> None:
    model: Any = build("PPO")
    watch = DivergenceWatch(tmp_path / "last_good.zip")
    model.set_logger(Logger(None, []))
    watch.init_callback(model)
    model.logger.record("train/explained_variance", math.nan)
    watch.on_rollout_start()
    model.logger.record("train/value_loss", math.inf)
    with pytest.raises(DivergenceError, match="The train/value_loss is inf"):
        watch.on_rollout_start()


@pytest.mark.parametrize("name", algorithms())
@pytest.mark.parametrize("use_sde", [False, True])
def test_a_copy_of_the_policy_acts_as_the_policy_did(name: str, use_sde: bool) -> None:
    if use_sde and name not in ("PPO", "A2C", "SAC", "TQC"):
        pytest.skip("no such setting")
    model = build(name, **({"use_sde": True} if use_sde else {}))
    model.learn(64)
    observations, _ = data(model)
    copied = PolicyCopy(model)
    before = model.predict(observations, deterministic=True)[0]
    policy = model.policy
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(1.0)
    after = model.predict(observations, deterministic=True)[0]
    with copied.in_place():
        assert np.array_equal(model.predict(observations, deterministic=True)[0], before)
    assert np.array_equal(model.predict(observations, deterministic=True)[0], after)
    assert model.policy is policy
    assert not np.array_equal(before, after) or name in ("DQN", "QRDQN")


class Broken(PointMass):
    """Gives one number that is not finite."""

    def __init__(self, where: str, value: float) -> None:
        super().__init__()
        self.where, self.value, self.life = where, value, 0

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        self.life += 1
        info["cost"] = 1.0
        if self.life == 150:
            if self.where == "observation":
                observation = observation * np.float32(self.value)
            reward = self.value if self.where == "reward" else reward
            info["cost"] = self.value if self.where == "cost" else 1.0
        return observation, reward, terminated, truncated, info


@pytest.mark.parametrize("name", ["PPO", "TD3"])
@pytest.mark.parametrize(
    ("where", "value"), [("reward", math.nan), ("reward", math.inf), ("observation", math.nan), ("cost", -math.inf)]
)
def test_a_number_of_an_environment_that_is_not_finite_is_named(
    name: str, where: str, value: float, tmp_path: Path
) -> None:
    settings = {"num_envs": 2, "calibration.steps": 64, "calibration.held_out": 8, "progress_bar": False}
    settings |= {"evaluation.episodes": 1, "evaluation.episodes_during": 1}
    for_algorithm = {"n_steps": 32, "batch_size": 32} if name in ON_POLICY else {"learning_starts": 50}
    settings |= {f"algo.settings.{key}": value for key, value in for_algorithm.items()}
    entries = r" \(entries 0, 1, 2 of 3\)" if where == "observation" else ""
    message = rf"Environment 0: the {where} is {value}{entries}. It was at step 14 of episode 6 since seed 0."
    with pytest.raises(DivergenceError, match=message):
        transfer(
            lambda: Broken(where, value),
            "ft",
            build(name),
            total_timesteps=1000,
            output_dir=tmp_path,
            settings=settings,
        )
    assert not (tmp_path / "results.json").exists()
    assert not_finite(load_agent(tmp_path / "last_good.zip")) is None


@pytest.mark.parametrize(
    ("error", "refused"),
    [(Interrupted(), False), (KeyboardInterrupt(), False), (RuntimeError("normal expects std >= 0"), True)],
)
def test_a_signal_while_actions_are_drawn_is_no_divergence(
    error: BaseException, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawing(*_: Any, **__: Any) -> torch.Tensor:
        raise error

    monkeypatch.setattr("torch.distributions.normal._standard_normal", drawing)
    with pytest.raises(type(error)) as raised:
        torch.distributions.Normal(0.0, 1.0).rsample()
    assert (refused_distribution(raised.value) is not None) == refused


def test_json_files_hold_no_number_that_json_does_not_have(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", {"a": [math.nan, 1.5], "b": {"c": math.inf, "d": (1, "NaN")}})
    text = (tmp_path / "results.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [None, 1.5], "b": {"c": None, "d": [1, "NaN"]}}
