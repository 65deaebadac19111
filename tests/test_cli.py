"""The command line as a user has it: in its own process, and composed in this one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize
from hydra.core.global_hydra import GlobalHydra
from joblib.externals.loky.process_executor import TerminatedWorkerError

from daft_rl.archives import find_agent
from daft_rl.cli import check_command, compose_config, compose_settings, explain, hints_on_warnings, run_command
from daft_rl.errors import AgentError, ConfigError, DaftWarning
from daft_rl.overrides import axes_of_sweep, expand, quoted
from daft_rl.plan import check_plan
from daft_rl.pretrain import run as pretrain
from daft_rl.run.interruption import RESUMABLE
from daft_rl.transfer import run, transfer
from tests.conftest import build


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "daft_rl.transfer", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )


@pytest.mark.usefixtures("groups_composed_once")
@pytest.mark.parametrize(
    ("argument", "messages"),
    [
        ("env=Nope", ["Nope", "Ant-shifted", "HalfCheetah-shifted"]),
        ("method=nope", ["nope", "daft_paper", "lp_ft"]),
        ("env.shift.nope=1", ["env.shift.nope", "gravity", "joint_range"]),
        ("env=safety", ["env.name"]),
        ("env=mujoco/Hopper-v5", ["Unknown env", "env=mujoco env.id=Hopper-v5"]),
        ("env.shift=gravty-0.5", ["gravity-0.5", "kinematic-easy"]),
        ("env.shift.mass=-1", ["shift.mass", "above 0"]),
        ("nope=1", ["nope", "total_timesteps"]),
        ("evaluation.every=0", ["evaluation.every", "at least 1"]),
        ("method.actor_head.scale=-1", ["scale"]),
        ("agent=nothing.zip", ["nothing.zip"]),
        ("agent.trust=no", ["agent.trust", "true or false", "'no'"]),
        ("render=off", ["render", "true or false"]),
        ("seed=-1", ["seed", "at least 0"]),
        ("calibration.steps=10k", ["calibration.steps", "whole number", "'10k'"]),
        ("device=gpu", ["device=gpu", "cuda"]),
        ("algo=sac", ["Ant-ppo", "daft_rl.pretrain"]),
    ],
)
def test_mistakes_are_one_message(
    argument: str,
    messages: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As processes: ``tests/test_invocations.py``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["transfer", argument])
    with pytest.raises(SystemExit, match="2"):
        run_command("transfer", run)
    told = capsys.readouterr().err
    assert "Traceback" not in told
    for message in messages:
        assert message in told


def test_a_person_at_a_terminal_sees_a_line_before_settings_are_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["transfer", "agent=nothing.zip"])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(SystemExit, match="2"):
        run_command("transfer", run)
    first, second = capsys.readouterr().err.strip().splitlines()
    assert first == "Reading the settings."
    assert "nothing.zip" in second


@pytest.mark.parametrize(
    ("fields", "shifts"),
    [
        (["env.shift.gravity=0.6"], [{"gravity": 0.6}]),
        (["env.shift.gravity=0.6,0.7", "env.shift.wind=[1,0,0]", "env.shift.density=1.2"], None),
        (["env.shift.mass={torso:2}"], [{"mass": {"torso": 2}}]),
    ],
)
def test_fields_of_a_shift_beside_the_grids_axis_are_told_how(
    fields: list[str], shifts: list[dict[str, Any]] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*overrides: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["benchmark", *expand(["preset=smoke", "env=Ant-shifted", *overrides])])
        check_command("benchmark", lambda _: None)
        return sys.argv[1:]

    with pytest.raises(ConfigError, match=r"axis env.shift=gravity-0.5, which replaces the whole shift") as caught:
        check(*fields)
    [*_, axis] = axes_of_sweep(check(str(caught.value).split('"')[1]), {})
    found = [compose_settings("transfer", ["env=Ant-shifted", "output_dir=out", shift]).env.shift for shift in axis]
    wanted = shifts or [{"gravity": gravity, "wind": [1, 0, 0], "density": 1.2} for gravity in (0.6, 0.7)]
    assert [{name: shift[name] for name in fields} for shift, fields in zip(found, wanted, strict=True)] == wanted


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


@pytest.mark.slow
def test_sweep(tmp_path: Path) -> None:
    done = command(
        "-m", "env=HalfCheetah-shifted", "method=zero_shot", "seed=1,2", "env.shift=friction-2.0", "num_envs=4",
        "progress_bar=false", "evaluation.episodes=1", "calibration.steps=400", "calibration.held_out=100",
        "hydra.sweep.dir=sweep", cwd=tmp_path,
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
    overrides = ["env=SafetyPointGoal-shifted", f"algo={algo}", "output_dir=nowhere"]
    assert compose_settings("transfer", overrides).exploration_std == least
    assert compose_settings("transfer", [*overrides, "algo.exploration_std=0.3"]).exploration_std == 0.3


def test_paths_may_have_commas(tmp_path: Path) -> None:
    """Hydra's folders of sweeps have some."""
    archive = tmp_path / "env=Ant,seed=1" / "final.zip"
    archive.parent.mkdir()
    shutil.copy(find_agent("Ant", "crossq"), archive)
    settings = compose_settings("transfer", [f"agent='{archive}'", "output_dir=nowhere"])
    assert (settings.agent.path, settings.algo.name) == (str(archive), "crossq")


def test_a_run_that_would_not_learn_is_refused(tmp_path: Path) -> None:
    overrides = [
        f"output_dir={tmp_path}",
        "algo=crossq",
        "algo.settings.learning_starts=200",
        "total_timesteps=200",
        "num_envs=1",
        "vec=dummy",
    ]
    with pytest.raises(ConfigError, match=r"begin after 200 steps"):
        run(compose_settings("transfer", overrides))


def never() -> Any:
    """Makes no environment."""
    raise AssertionError


def test_learning_that_would_never_begin_is_refused_before_a_simulator_starts(tmp_path: Path) -> None:
    overrides = [
        "env=Door-shifted",
        f"output_dir={tmp_path}",
        "algo=crossq",
        "algo.settings.learning_starts=200",
        "total_timesteps=200",
    ]
    with pytest.raises(ConfigError, match=r"begin after 200 steps"):
        check_plan(compose_settings("transfer", overrides))
    check_plan(compose_settings("transfer", [*overrides, "method=zero_shot"]))
    agent = build("SAC", learning_starts=300)
    with pytest.raises(ConfigError, match=r"begin after 300 steps"):
        transfer(never, source=agent, total_timesteps=200, settings={"algo.most_learning_starts": None})


def test_a_script_may_be_a_hydra_application_itself() -> None:
    with initialize(config_path=None, version_base="1.3"):
        assert compose_config("transfer", ["env=Ant-shifted"]).env.name == "Ant-shifted"
        assert GlobalHydra.instance().is_initialized()
        with pytest.raises(ConfigError):
            compose_config("transfer", ["env=Nope"])
        assert compose(overrides=["+mine=1"]).mine == 1


def test_pretraining_has_the_settings_of_its_recipe() -> None:
    overrides = ["env=Ant", "output_dir=nowhere", "algo.settings.n_epochs=3"]
    with pytest.raises(ConfigError, match=r"recipe\.settings"):
        pretrain(compose_settings("pretrain", overrides), overrides)


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


def test_a_killed_worker_of_a_grid_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(**_: Any) -> Any:
        raise TerminatedWorkerError("many lines")

    monkeypatch.setattr(sys, "argv", ["transfer", "output_dir=out"])
    monkeypatch.setattr("daft_rl.cli.check_command", lambda *_: [])
    monkeypatch.setattr("hydra.main", killed)
    with pytest.raises(SystemExit) as ended:
        run_command("transfer", print)
    assert ended.value.code == RESUMABLE
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_mistyped_settings_are_not_to_be_added() -> None:
    with pytest.raises(ConfigError, match="total_timestep") as refused:
        compose_config("transfer", ["total_timestep=100"])
    assert "append" not in str(refused.value)


def test_messages_name_the_key_of_the_command_line() -> None:
    error = AgentError("The policy is unknown.", arguments=("policy_kwargs", "n_steps", "overwrite"))
    assert explain(error) == (
        "The policy is unknown. "
        "(On the command line: agent.policy_kwargs=..., algo.settings.n_steps=..., overwrite=...)"
    )


def test_warnings_name_the_key_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with hints_on_warnings():
            warnings.warn(DaftWarning("No buffer size.", arguments=["buffer_size"]), stacklevel=1)
    assert capsys.readouterr().err == (
        "Warning: No buffer size. (On the command line: algo.settings.buffer_size=...)\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        *(
            "/a/${seed}/x",
            r"/a\${seed}",
            "/${",
            "/${now:%Y}/a'b",
            r"/a\b/x",
            r"/a\\b/x",
            "/it's mine",
            r"/a\'b",
            "/end\\",
        ),
        *("/two\nlines", "/100%s", "/a,b=[c]{d} #e", "/größe", "/caf\udce9", "/end\\"),
    ],
)
def test_hydra_reads_a_quoted_path_as_it_is(text: str) -> None:
    assert compose_config("transfer", ["env=Ant-shifted", f"output_dir={quoted(text)}"]).output_dir == text


def test_an_agent_is_found_in_a_folder_that_looks_like_an_interpolation(tmp_path: Path) -> None:
    agent = tmp_path / "${seed}" / "agent.zip"
    agent.parent.mkdir()
    shutil.copy(find_agent("Ant", "ppo"), agent)
    settings = compose_settings("transfer", ["env=Ant-shifted", f"agent={quoted(str(agent))}", "output_dir=x"])
    assert settings.agent.path == str(agent)


def test_a_folder_that_hydra_would_rename_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "${seed}"
    folder.mkdir()
    done = command("env=Ant-shifted", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Hydra cannot run in {folder}/runs/Ant-shifted/")
    assert "output_dir=..." in done.stderr
    assert not list(folder.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["${seed}"]


def test_a_deleted_working_directory_is_told(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    archive = find_agent("Ant", "ppo")  # its algorithm is found out by PyTorch, whose libraries need a directory
    line = 'cd "$1" && rmdir "$1" && exec "$2" -m daft_rl.transfer env=Ant-shifted agent="$3"'
    done = subprocess.run(
        ["bash", "-c", line, "bash", gone, sys.executable, archive], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert done.stderr == "The working directory was deleted. Change to one that exists: cd FOLDER.\n"
