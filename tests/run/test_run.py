"""A run's state: its parts say what they need to go on, and take it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl.envs.domain import user_domains
from daft_rl.errors import ConfigError
from daft_rl.run.run import Run
from daft_rl.settings import TransferSettings
from daft_rl.transfer import adapt_to_target, load_and_play
from tests.conftest import PointMass


class Tolled(PointMass):
    """Every step costs one."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"cost": 1.0}


def settings_in(folder: Path) -> TransferSettings:
    return TransferSettings.from_dict(
        {
            "output_dir": str(folder), "method": "daft", "num_envs": 2, "total_timesteps": 256, "progress_bar": False,
            "env": {"name": "own", "cost_limit": 5}, "evaluate_in_background": False,
            "agent": {"normalize": "update"}, "algo": {"settings": {"n_steps": 32, "batch_size": 32}},
            "calibration": {"steps": 64, "held_out": 32},
            "evaluation": {"episodes": 2, "episodes_during": 2, "every": 100},
        }
    )  # fmt: skip


def prepared(current: Run) -> Run:
    venv = VecNormalize(DummyVecEnv([Tolled]))
    source = PPO("MlpPolicy", venv, n_steps=32, batch_size=32, seed=1, device="cpu").learn(64)
    settings = settings_in(current.folder)
    load_and_play(current, settings, user_domains(Tolled, Tolled), source, None)
    adapt_to_target(current, settings, source)
    return current


def test_every_part_goes_on_from_its_state(tmp_path: Path) -> None:
    with Run(settings_in(tmp_path / "one")) as first, Run(settings_in(tmp_path / "other")) as other:
        prepared(first).learn()
        state = first.state_dict()
        assert set(state) == {
            *("profile", "adaptation", "monitoring", "logger"),
            *("VecNormalize", "VecMonitor", "Lagrangian", "EpisodeCosts"),
        }
        prepared(other).load_state_dict(state)
        again = other.state_dict()
    assert again["monitoring"] == state["monitoring"]
    assert [point["timesteps"] for point in again["monitoring"]["curve"]] == [0, 100, 200]
    assert again["Lagrangian"] == state["Lagrangian"]
    assert state["Lagrangian"]["multiplier"] > 0
    for name, (mean, var, count) in state["VecNormalize"]["running"].items():
        there = again["VecNormalize"]["running"][name]
        np.testing.assert_array_equal(there[0], mean)
        np.testing.assert_array_equal(there[1], var)
        assert there[2] == count
    assert again["profile"].keys() >= state["profile"].keys()


def test_a_device_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    given = settings_in(tmp_path).as_dict()
    with pytest.raises(ConfigError, match="device=gpu"):
        TransferSettings.from_dict(given | {"device": "gpu"})
    with (
        pytest.raises(ConfigError, match="device=cuda:99"),
        Run(TransferSettings.from_dict(given | {"device": "cuda:99"})),
    ):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match=r"output_dir=.*nothing can be written"),
        Run(settings_in(tmp_path / "file" / "run")),
    ):
        pass
