"""Whole programs in worlds, simulated by Warp on the CPU, with tiny budgets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import PPO

from daft_rl import transfer
from daft_rl.cli import compose_settings
from daft_rl.errors import DaftWarning
from daft_rl.pretrain import run as pretrain
from tests.test_resume import StoppedError, stop_at

pytest.importorskip("mujoco_warp", reason="worlds need the extra `cuda`")

pytestmark = pytest.mark.usefixtures("kernels", "short_episodes")

WORLDS: dict[str, Any] = {
    "vec": "cuda",
    "device": "cpu",
    "num_envs": 4,
    "calibration.steps": 80,
    "calibration.held_out": 20,
    "evaluation.episodes": 1,
    "evaluation.episodes_during": 1,
    "evaluation.every": 100,
    "progress_bar": False,
}
SHORT: dict[str, Any] = {"algo.settings.n_steps": 16, "algo.settings.batch_size": 32, "algo.settings.n_epochs": 2}


@pytest.fixture(autouse=True)
def _short_visits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daft_rl.rollout.evaluation.SHORTEST_VISIT", 20)


def test_a_transfer_learns_in_worlds_and_plays_in_the_tasks_own_simulator(tmp_path: Path) -> None:
    result = transfer("HalfCheetah-shifted", "daft", total_timesteps=128, output_dir=tmp_path, settings=WORLDS | SHORT)
    assert (result.timesteps, result.final["target"].lengths) == (128, [100])
    in_threads = transfer(
        "HalfCheetah-shifted", "zero_shot", output_dir=tmp_path / "threads",
        settings={"num_envs": 2} | {key: value for key, value in WORLDS.items() if key.startswith(("eval", "calib"))},
    )  # fmt: skip
    assert result.zero_shot["target"].returns == in_threads.zero_shot["target"].returns
    assert [point["timesteps"] for point in result.curve] == [0, 100]
    assert type(PPO.load(tmp_path / "final.zip")) is PPO
    assert json.loads((tmp_path / "results.json").read_text())["algo"] == "ppo"
    assert result.seconds_by_activity["simulation"] > 0.0


def test_a_source_learns_in_worlds(tmp_path: Path) -> None:
    overrides = [
        *(f"{key}={value}" for key, value in WORLDS.items() if key != "calibration.held_out"),
        *("env=HalfCheetah", "total_timesteps=128"),
        *("recipe.settings.n_steps=16", "recipe.settings.batch_size=32", f"output_dir={tmp_path}"),
    ]
    card = pretrain(compose_settings("pretrain", overrides))
    assert (card["name"], card["timesteps"]) == ("HalfCheetah-ppo-cuda", 128)
    statistics = PPO.load(tmp_path / "agent.zip").policy.state_dict()
    assert any(name.endswith("running_mean") and bool(value.any()) for name, value in statistics.items())
    assert (tmp_path / "vecnormalize.pkl").is_file()


def test_a_run_in_worlds_goes_on_with_new_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = WORLDS | SHORT | {"total_timesteps": 192, "checkpoint.every": 64, "checkpoint.share": 1}
    with monkeypatch.context() as patch:
        stop_at(patch, 140)
        with pytest.raises(StoppedError):
            transfer("HalfCheetah-shifted", "ft", output_dir=tmp_path, settings=settings)
    with pytest.warns(DaftWarning, match="start new episodes: its state cannot be saved"):
        result = transfer(resume=tmp_path)
    assert result.timesteps == 192
    assert [point["timesteps"] for point in result.curve] == [0, 100]


def test_an_off_policy_algorithm_in_worlds_says_that_it_keeps_no_checkpoints(tmp_path: Path) -> None:
    settings = {"algo.settings.learning_starts": 8, "algo.settings.batch_size": 8, "total_timesteps": 32}
    with pytest.warns(DaftWarning, match="vec='cuda' keeps no checkpoints of CrossQ"):
        transfer("HalfCheetah-shifted", "ft", algo="crossq", output_dir=tmp_path, settings=WORLDS | settings)
