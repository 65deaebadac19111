"""Signals: a run ends with a checkpoint and a code that says so; a kill leaves the last checkpoint. Both go on."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import daft_rl
from daft_rl.errors import ConfigError
from daft_rl.resume import read_run, resume_command, stoppable
from daft_rl.run.folder import Identity, RunFolder
from daft_rl.run.interruption import RESUMABLE, Interrupted, Interruption
from daft_rl.settings import TransferSettings
from tests.conftest import PointMass, build
from tests.test_resume import ON_POLICY_SETTINGS, SETTINGS, assert_equal_runs

LONG = SETTINGS | ON_POLICY_SETTINGS | {"total_timesteps": 1024, "evaluation.every": 500}


def transfer(folder: Path) -> None:
    daft_rl.transfer(PointMass, "ft", build("PPO"), settings=LONG, output_dir=folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    transfer(folder)
    return folder


def run_in_fork(folder: Path) -> None:
    with stoppable("daft_rl.transfer"):
        transfer(folder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_that_was_stopped_goes_on(number: signal.Signals, whole: Path, tmp_path: Path) -> None:
    context: Any = multiprocessing.get_context("fork")
    process = context.Process(target=run_in_fork, args=(tmp_path / "cut",))
    process.start()
    pause = Event()
    while process.is_alive() and not list((tmp_path / "cut").glob("checkpoints/*.zip")):
        pause.wait(0.005)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == (-signal.SIGKILL if number == signal.SIGKILL else RESUMABLE)
    daft_rl.transfer(PointMass, source=build("PPO"), resume=tmp_path / "cut")
    assert_equal_runs(whole, tmp_path / "cut")


def test_a_first_signal_waits_for_the_end_of_the_rollout_and_a_second_does_not() -> None:
    waiting = Interruption()
    with waiting.listen(), waiting.deferred():
        assert not waiting.requested
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert waiting.requested
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_of_learning_a_signal_stops_at_once() -> None:
    waiting, before = Interruption(), signal.getsignal(signal.SIGTERM)
    with waiting.listen(), pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    "text",
    ["", "[]", "env: {name: Ant}", "a: &b [1]\nenv: *b", "[" * 5000, "x: " + "y" * 2_000_000, "{env: 1, method: 2}"],
)
def test_a_folder_without_a_run_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        read_run(TransferSettings, tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(SystemExit) as ending:
        resume_command(TransferSettings, print, [f"resume={tmp_path}"])
    assert ending.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_nothing_is_left_to_do_for_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A signal may come after the results were written, or before the checkpoints were deleted."""
    settings = TransferSettings.from_dict({"method": "ft", "env": {"name": "Ant"}, "output_dir": tmp_path})
    RunFolder(settings, Identity()).release()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "results.json").write_text("{}")
    assert resume_command(TransferSettings, lambda found: RunFolder(found, Identity()), [f"resume={tmp_path}"])
    assert capsys.readouterr().out == f"{tmp_path} holds a finished run. Nothing is left to do.\n"
    assert (tmp_path / "results.json").exists()
    assert not (tmp_path / "checkpoints").exists()


def test_code_of_a_folder_is_executed_only_by_ones_own_word(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{method: ft, env: {name: Ant}, agent: {path: a.zip, trust: true}}")
    with pytest.raises(ConfigError, match=r"executes code from a\.zip"):
        read_run(TransferSettings, tmp_path)
    assert read_run(TransferSettings, tmp_path, trust=True).agent.trust


def test_a_resumed_run_takes_no_other_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert not resume_command(TransferSettings, print, ["seed=1"])
    with pytest.raises(SystemExit):
        resume_command(TransferSettings, print, ["resume=runs/one", "seed=1"])
    assert "Leave out the others" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"Leave out seed, num_envs"):
        daft_rl.transfer(resume="runs/one", seed=1, settings={"num_envs": 1})
