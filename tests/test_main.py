"""``daft-rl`` and ``--help``: what a user sees before anything runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from daft_rl import __version__, levels, methods, tasks
from daft_rl.__main__ import PROGRAMS, main
from daft_rl.archives import find_agent
from daft_rl.cli import compose_settings, run_command
from daft_rl.help import help_text
from daft_rl.run.names import shortened
from daft_rl.transfer import DEFAULT_METHOD


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    main(arguments)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["list", "tasks"], tasks()),
        (["list", "methods"], methods()),
        (["list", "algorithms"], ["crossq", "ppo", "trpo"]),
        (["list", "levels", "Ant"], [*levels("Ant")]),
        (["list", "agents"], ["Ant-ppo", "Door-crossq"]),
        ([], [*PROGRAMS]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_names_are_listed(arguments: list[str], names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    listed = {line.split()[0] for line in printed(arguments, capsys).splitlines() if line.strip()}
    assert {*names} <= listed


def test_every_listed_agent_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for line in printed(["list", "agents"], capsys).splitlines():
        assert find_agent("", "", line.split()[0]).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "levels"], "daft-rl list levels Ant"),
        (["list", "levels", "Nope"], "Unknown task 'Nope'"),
        (["list", "tasks", "Ant"], "no task is needed"),
        (["tranfer"], "transfer"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_cannot_be_listed_is_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert __version__ in capsys.readouterr().out


def test_a_program_prints_its_help_as_a_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "daft_rl", "transfer", "env=Ant-shifted", "--help"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("env=gymnasium", "HalfCheetah-shifted", "daft_realign", "seed=0", "evaluation.episodes=20"):
        assert text in done.stdout
    assert not any(text in done.stdout for text in ("powered by Hydra", "open: kwargs", "None"))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("program", ["transfer", "pretrain", "benchmark"])
def test_every_setting_has_a_line_and_a_comment(program: str) -> None:
    lines = help_text(program).partition("Settings, KEY=VALUE:")[2].partition("Flags:")[0].splitlines()
    settings = [index for index, line in enumerate(lines) if line.startswith("  ") and line[2] != " "]
    assert len(settings) > 30
    for index in settings:
        key, _, comment = lines[index].strip().partition(" ")
        assert "=" in key
        assert comment.strip() or lines[index + 1].startswith("    "), key


def test_help_names_the_method_that_a_transfer_takes() -> None:
    told = help_text("transfer")
    assert f"Methods, method=NAME ({DEFAULT_METHOD} if none is given)" in told
    assert "env=Ant-shifted the shipped Ant policy, by the method that fits python" in " ".join(told.split())


@pytest.mark.parametrize("program", ["transfer", "pretrain"])
def test_without_settings_nothing_starts(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [program])
    with pytest.raises(SystemExit, match="2"):
        run_command(program, lambda settings: pytest.fail("it ran"))
    assert f"python -m daft_rl.{program} env=Ant" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_a_completion_that_would_not_work_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["transfer", "--shell-completion", "install=bash"])
    with pytest.raises(SystemExit, match="2"):
        run_command("transfer", lambda settings: pytest.fail("it ran"))
    assert "python -m MODULE" in capsys.readouterr().err


def test_long_names_of_a_sweep_fit_a_file_system_and_stay_different() -> None:
    names = [",".join(f"evaluation.setting_{i}={value}" for i in range(30)) for value in (1, 2)]
    folders = [shortened(name) for name in names]
    assert len({*folders}) == 2
    assert all(len(folder.encode()) <= 150 for folder in folders)
    assert shortened("env=Ant,seed=1") == "env=Ant,seed=1"


def test_a_run_lies_under_the_name_of_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders: list[Path] = []
    line = ["env=gymnasium", "env.id=Pendulum-v1", f"agent={find_agent('Ant', 'ppo')}"]
    monkeypatch.setattr(sys, "argv", ["transfer", *line, "--config-dir", str(tmp_path)])
    run_command("transfer", lambda settings: folders.append(settings.output_dir))
    assert folders[0].relative_to(Path.cwd() / "runs").parts[0] == "Pendulum-v1"
    assert compose_settings("transfer", [*line, "output_dir=here"]).output_dir == Path("here")
