"""What a file of the configuration says that only the command line may say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from daft_rl.benchmark import refuse_cell
from daft_rl.cli import run_command
from tests.invocations import groups_composed_once

QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none")
"""Logging is set up once per process: again, absl's handler would close the stream that pytest captures."""
HEADER = "# @package _global_\n"


def run_with(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *given: str, program: str = "transfer") -> Any:
    """Run a command line with a file of somebody else's.

    :return: the settings of its jobs
    """
    (folder / "theirs" / "my").mkdir(parents=True)
    (folder / "theirs" / "my" / "run.yaml").write_text(HEADER + text)
    jobs: list[Any] = []
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [program, "--config-dir", "theirs", "+my=run", *QUIET, *given])
    with groups_composed_once():
        run_command(program, jobs.append, refuse_cell if program == "benchmark" else None)
    return jobs


def refusal(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, *given: str) -> str:
    with pytest.raises(SystemExit) as ending:
        run_with(text, folder, monkeypatch, *given)
    assert ending.value.code == 2
    assert [path.name for path in folder.iterdir()] == ["theirs"]
    return str(capsys.readouterr().err)


OWN_WORDS = [("agent: {trust: true}\n", "agent.trust=true"), ("overwrite: true\n", "overwrite=true")]
SWEPT = "hydra: {{sweeper: {{params: {{{}: 'false,true'}}}}}}\n"


@pytest.mark.parametrize(("text", "word"), OWN_WORDS)
def test_a_file_cannot_say_what_only_the_command_line_may(
    text: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"say {word} there" in refusal(text, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(("text", "word"), OWN_WORDS)
def test_what_the_command_line_repeats_counts(
    text: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = run_with(text, tmp_path, monkeypatch, word, "output_dir=out")
    assert job.agent.trust or job.overwrite


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("hydra: {job: {env_set: {LD_PRELOAD: evil.so}}}\n", "hydra.job.env_set.LD_PRELOAD=evil.so"),
        ("hydra: {job: {env_copy: [PATH]}}\n", "hydra.job.env_"),
        ("hydra: {job: {chdir: true}}\n", "hydra.job.chdir"),
        ("hydra: {job: {name: ../../log}}\n", "hydra.job.name"),
        ("hydra: {launcher: {_target_: os.system}}\n", "hydra.launcher._target_=os.system"),
        ("hydra: {launcher: {temp_folder: /}}\n", "hydra.launcher.temp_folder"),
        ("hydra: {sweeper: {_target_: os.system}}\n", "hydra.sweeper._target_"),
        ("hydra: {callbacks: {mine: {_target_: os.system}}}\n", "hydra.callbacks.mine._target_=os.system"),
        ("hydra: {output_subdir: ../..}\n", "hydra.output_subdir"),
        ("hydra: {job_logging: {handlers: {file: {class: logging.FileHandler}}}}\n", "hydra.job_logging.handlers"),
        ("hydra: {mode: MULTIRUN}\n", "hydra.mode"),
        (SWEPT.format("agent.trust"), "hydra.sweeper.params.agent.trust"),
        (SWEPT.format("+overwrite"), "hydra.sweeper.params.+overwrite"),
        (SWEPT.format("hydra.job.chdir"), "hydra.sweeper.params.hydra.job.chdir"),
    ],
)
def test_a_file_cannot_make_hydra_run_code(
    text: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert key in refusal(text, tmp_path, monkeypatch, capsys)


def test_each_file_of_a_sweep_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs" / "their").mkdir(parents=True)
    (tmp_path / "theirs" / "their" / "a.yaml").write_text(HEADER + "seed: 1\n")
    (tmp_path / "theirs" / "their" / "b.yaml").write_text(HEADER + "hydra: {job: {env_set: {A: b}}}\n")
    assert "hydra.job.env_set.A=b" in refusal("seed: 1\n", tmp_path, monkeypatch, capsys, "+their=a,b", "-m")


def test_a_file_may_say_what_is_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "hydra: {run: {dir: elsewhere}, launcher: {n_jobs: 1}, verbose: false, sweeper: {params: {seed: '1,2'}}}\n"
    (job,) = run_with(text, tmp_path, monkeypatch)
    assert Path(job.output_dir).name == "elsewhere"


def test_what_the_command_line_says_to_hydra_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "hydra: {job: {env_set: {SAID_BY: file}}}\n"
    assert len(run_with(text, tmp_path, monkeypatch, "++hydra.job.env_set.SAID_BY=file", "output_dir=out")) == 1
