"""The command line as a user has it: in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize
from hydra.core.global_hydra import GlobalHydra

from daft_rl.cli import compose_config
from daft_rl.errors import ConfigError


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "daft_rl.transfer", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize(
    ("argument", "messages"),
    [
        ("env=Nope", ["Nope", "Ant-shifted", "HalfCheetah-shifted"]),
        ("method=nope", ["nope", "daft_paper", "lp_ft"]),
        ("env.shift.nope=1", ["env.shift.nope", "gravity", "joint_range"]),
        ("env=safety", ["env.name"]),
        ("env.shift=gravty-0.5", ["gravity-0.5", "kinematic-easy"]),
        ("env.shift.mass=-1", ["shift.mass", "above 0"]),
        ("nope=1", ["nope", "total_timesteps"]),
        ("evaluation.every=0", ["evaluation.every", ">= 1"]),
        ("method.actor_head.scale=-1", ["scale"]),
        ("agent=nothing.zip", ["nothing.zip"]),
        ("algo=sac", ["Ant-ppo", "daft_rl.pretrain"]),
    ],
)
def test_mistakes_are_one_message(argument: str, messages: list[str], tmp_path: Path) -> None:
    done = command(argument, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for message in messages:
        assert message in done.stderr


@pytest.mark.parametrize(
    ("package", "task", "remedy"),
    [
        ("robosuite", "Door-shifted", "pip install 'daft-rl[robosuite]'"),
        ("safety_gymnasium", "SafetyPointGoal-shifted", "pip install --no-deps safety-gymnasium==1.0.0"),
    ],
)
def test_a_missing_simulator_is_one_line(package: str, task: str, remedy: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules['{package}'] = None\n")
    done = subprocess.run(
        [sys.executable, "-m", "daft_rl.transfer", f"env={task}"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert package in done.stderr
    assert remedy in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("results.json"))


def test_sweep(tmp_path: Path) -> None:
    done = command(
        "-m", "env=HalfCheetah-shifted", "method=ft_eval", "seed=1,2", "env.shift=friction-2.0", "total_timesteps=512",
        "num_envs=4", "algo.settings.n_steps=128", "algo.settings.batch_size=128", "progress_bar=false",
        "evaluation.episodes=1", "evaluation.episodes_during=1", "calibration.held_out=100", "hydra.sweep.dir=sweep",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "zero-shot" in done.stdout
    results = [json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("*/results.json")]
    assert sorted(result["seed"] for result in results) == [1, 2]
    assert all(result["shift"] == {"friction": 2.0} for result in results)


def test_a_script_may_be_a_hydra_application_itself() -> None:
    with initialize(config_path=None, version_base="1.3"):
        assert compose_config("transfer", ["env=Ant-shifted"]).env.name == "Ant-shifted"
        assert GlobalHydra.instance().is_initialized()
        with pytest.raises(ConfigError):
            compose_config("transfer", ["env=Nope"])
        assert compose(overrides=["+mine=1"]).mine == 1
