"""The command line as a user has it: in its own process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from stable_baselines3 import PPO

from daft_rl.archives import find_agent
from daft_rl.cli import apply_overrides, compose_config, run_command
from daft_rl.errors import ConfigError
from daft_rl.pretrain import run as pretrain
from daft_rl.run.folder import Workspace
from daft_rl.transfer import run


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


def test_patterns_are_added_to_those_of_the_default_shift() -> None:
    for task, default in (("Ant", {"hip_[12]": 0.25}), ("HalfCheetah", {})):
        cfg = compose_config("transfer", [f"env={task}-shifted", "env.shift.joint_range={hip_3: 0.5}"])
        assert cfg.env.shift.joint_range == default | {"hip_3": 0.5}


@pytest.mark.parametrize(("algo", "least"), [("ppo", 0.6), ("a2c", 0.6), ("td3", 0.1), ("crossq", None)])
def test_exploration_of_a_task_is_for_gaussian_policies(algo: str, least: float | None) -> None:
    """That of TD3 and DDPG is noise on actions, in other units."""
    cfg = compose_config("transfer", ["env=SafetyPointGoal-shifted", f"algo={algo}"])
    assert cfg.algo.exploration_std == least
    cfg = compose_config("transfer", ["env=SafetyPointGoal-shifted", f"algo={algo}", "algo.exploration_std=0.3"])
    assert cfg.algo.exploration_std == 0.3


def test_paths_may_have_commas(tmp_path: Path) -> None:
    """Hydra's folders of sweeps have some."""
    archive = tmp_path / "env=Ant,seed=1" / "final.zip"
    archive.parent.mkdir()
    shutil.copy(find_agent("Ant", "crossq"), archive)
    cfg = compose_config("transfer", [f"agent='{archive}'"])
    assert (cfg.agent.path, cfg.algo.name) == (str(archive), "crossq")


def test_single_values_are_read_as_on_the_command_line() -> None:
    cfg = compose_config("transfer", ["env=HalfCheetah-shifted", "env.shift.mass={torso:2.0}"])
    replaced = OmegaConf.create({"env": {"shift": {"gear": 0.5}}})
    apply_overrides(replaced, ["env.shift.mass={torso:2.0}", "++env.shift.gear=1.5"])
    assert replaced.env.shift == {"gear": 1.5, "mass": cfg.env.shift.mass}
    assert cfg.env.shift.mass == {"torso": 2.0}


@pytest.mark.parametrize("count", ["1e4", "10k", "true", "-3"])
def test_counts_are_whole_numbers(count: str, tmp_path: Path) -> None:
    cfg = compose_config("transfer", [f"calibration.steps={count}", f"output_dir={tmp_path}"])
    with pytest.raises(ConfigError, match=r"calibration\.steps: expected a whole number >= 1"), Workspace(cfg):
        pass


def test_a_run_that_would_not_learn_is_refused(tmp_path: Path) -> None:
    overrides = [f"output_dir={tmp_path}", "algo=crossq", "total_timesteps=5000", "num_envs=1", "vec=dummy"]
    with pytest.raises(ConfigError, match=r"begin after 5000 steps"):
        run(compose_config("transfer", overrides))


def test_a_script_may_be_a_hydra_application_itself() -> None:
    with initialize(config_path=None, version_base="1.3"):
        assert compose_config("transfer", ["env=Ant-shifted"]).env.name == "Ant-shifted"
        assert GlobalHydra.instance().is_initialized()
        with pytest.raises(ConfigError):
            compose_config("transfer", ["env=Nope"])
        assert compose(overrides=["+mine=1"]).mine == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", "seed: expected a whole number from 0"),
        ("evaluation.seed=1.5", "evaluation.seed: expected a whole number"),
        ("torch_threads=0", "torch_threads: expected a whole number >= 1"),
        ("agent.trust=no", "agent.trust: expected true or false, got 'no'"),
        ("render=off", "render: expected true or false"),
        ("device=gpu", "device=gpu: expected auto, cpu, cuda"),
    ],
)
def test_settings_of_other_kinds_are_refused(override: str, message: str, tmp_path: Path) -> None:
    cfg = compose_config("transfer", [override, f"output_dir={tmp_path}"])
    with pytest.raises(ConfigError, match=message), Workspace(cfg):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_cuda_that_is_not_there_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="finds no CUDA here"),
        Workspace(compose_config("transfer", ["device=cuda:0", f"output_dir={tmp_path}"])),
    ):
        pass


def test_pretraining_has_the_settings_of_its_recipe() -> None:
    overrides = ["env=Ant", "output_dir=nowhere", "algo.settings.n_epochs=3"]
    with pytest.raises(ConfigError, match=r"recipe\.settings"):
        pretrain(compose_config("pretrain", overrides), overrides)


@pytest.mark.parametrize("first", [0, 1])
def test_a_shift_is_given_once(first: int) -> None:
    both = ["env.shift.friction=2", "env.shift=gravity-0.5"]
    with pytest.raises(ConfigError, match="a level replaces the shift"):
        compose_config("transfer", ["env=HalfCheetah-shifted", both[first], both[1 - first]])


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["transfer", "env=Ant-shifted"])
    monkeypatch.setattr("daft_rl.cli.hydra.main", lambda **_: lambda job: interrupted)
    with pytest.raises(SystemExit, match="130"):
        run_command("transfer", print)
    assert capsys.readouterr().err == "Interrupted.\n"


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cfg = compose_config("transfer", [f"output_dir={tmp_path / 'file' / 'run'}"])
    with pytest.raises(ConfigError, match=r"output_dir=.*nothing can be written"), Workspace(cfg):
        pass


def test_results_of_an_earlier_run_go(tmp_path: Path) -> None:
    """Its settings are overwritten at once, so what is left would seem to be theirs."""
    (tmp_path / "results.json").write_text("{}")
    with Workspace(compose_config("transfer", [f"output_dir={tmp_path}"])):
        assert not (tmp_path / "results.json").exists()


def test_mistyped_settings_are_not_to_be_added() -> None:
    with pytest.raises(ConfigError, match="total_timestep") as told:
        compose_config("transfer", ["total_timestep=100"])
    assert "append" not in str(told.value)


def test_a_single_rollout_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = PPO("MlpPolicy", "Pendulum-v1", n_steps=64, device="cpu")
    for steps, told in ((64, True), (65, False)):
        Workspace(compose_config("transfer", [f"output_dir={tmp_path}", f"total_timesteps={steps}"])).check_steps(model)
        assert ("one rollout, of 64 steps" in capsys.readouterr().err) is told
