"""Whole programs in worlds, simulated by Warp on the CPU, with tiny budgets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import PPO

from daft_rl import transfer
from daft_rl.cli import compose_settings
from daft_rl.pretrain import run as pretrain

pytest.importorskip("mujoco_warp")

WORLDS: dict[str, Any] = {
    "vec": "cuda",
    "device": "cpu",
    "num_envs": 8,
    "calibration.steps": 300,
    "calibration.held_out": 100,
    "evaluation.episodes": 1,
    "evaluation.episodes_during": 1,
    "evaluation.every": 512,
    "progress_bar": False,
}
SHORT = {"algo.settings.n_steps": 32, "algo.settings.batch_size": 128, "algo.settings.n_epochs": 2}


def test_a_transfer_learns_in_worlds_and_plays_in_the_tasks_own_simulator(tmp_path: Path) -> None:
    result = transfer("HalfCheetah-shifted", total_timesteps=768, output_dir=tmp_path, settings=WORLDS | SHORT)
    assert (result.timesteps, result.final["target"].lengths) == (768, [1000])
    in_threads = transfer(
        "HalfCheetah-shifted", "zero_shot", output_dir=tmp_path / "threads",
        settings={"num_envs": 2} | {key: value for key, value in WORLDS.items() if key.startswith(("eval", "calib"))},
    )  # fmt: skip
    assert result.zero_shot["target"].returns == in_threads.zero_shot["target"].returns
    assert [point["timesteps"] for point in result.curve] == [0, 512]
    assert type(PPO.load(tmp_path / "final.zip")) is PPO
    assert json.loads((tmp_path / "results.json").read_text())["algo"] == "ppo"
    assert result.seconds_by_activity["simulation"] > 0.0


def test_a_source_learns_in_worlds(tmp_path: Path) -> None:
    overrides = [
        *(f"{key}={value}" for key, value in WORLDS.items() if key != "calibration.held_out"),
        *("env=Ant", "total_timesteps=512", "recipe.settings.n_steps=32", "recipe.settings.batch_size=128"),
        f"output_dir={tmp_path}",
    ]
    card = pretrain(compose_settings("pretrain", overrides))
    assert (card["name"], card["timesteps"]) == ("Ant-ppo-cuda", 512)
    statistics = PPO.load(tmp_path / "agent.zip").policy.state_dict()
    assert any(name.endswith("running_mean") and bool(value.any()) for name, value in statistics.items())
    assert (tmp_path / "vecnormalize.pkl").is_file()
