"""Signals: a run ends with a checkpoint and a code that says so; a kill leaves the last checkpoint. Both go on."""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import nullcontext
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import daft_rl
from daft_rl.checkpoint.file import read_state
from daft_rl.cli import one_message
from daft_rl.errors import ConfigError
from daft_rl.resume import read_run, resume_command, stoppable
from daft_rl.run.folder import Identity, RunFolder
from daft_rl.run.interruption import RESUMABLE, Interrupted, Interruption, interruption
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


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
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


class Held(PointMass):
    """Holds the process that plays in the background as long as a file is there."""

    folder, learner = Path("nowhere"), 0

    def step(self, action: Any) -> Any:
        while (self.folder / "hold").exists() and os.getpid() != self.learner:
            (self.folder / "held").touch()
            Event().wait(0.01)
        return super().step(action)


class Signalling(PointMass):
    """Sends SIGTERM in the middle of an evaluation while learning, if a file asks for it."""

    folder, learnt, evaluates = Path("nowhere"), 0, False

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.evaluates = 10_000 <= seed < 10_010
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        Signalling.learnt += not self.evaluates
        if self.evaluates and self.learnt > 300 and (self.folder / "signal").exists():
            (self.folder / "signal").unlink()
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step(action)


def run_in_group(env: Any, settings: dict[str, Any], folder: Path) -> None:
    os.setsid()
    Held.learner = os.getpid()
    with stoppable("daft_rl.transfer"):
        daft_rl.transfer(env, "ft", build("PPO"), settings=settings, output_dir=folder)


def start_group(env: Any, settings: dict[str, Any], folder: Path) -> Any:
    context: Any = multiprocessing.get_context("fork")
    process = context.Process(target=run_in_group, args=(env, settings, folder))
    process.start()
    return process


def newest_step(folder: Path) -> int:
    return max((int(path.stem) for path in folder.glob("checkpoints/*.zip")), default=0)


def test_a_signal_to_a_whole_group_waits_for_no_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those under way are played by the process that goes on."""
    settings = LONG | {"evaluate_in_background": True}
    daft_rl.transfer(Held, "ft", build("PPO"), settings=settings, output_dir=tmp_path / "whole")
    monkeypatch.setattr(Held, "folder", tmp_path)
    process = start_group(Held, settings, tmp_path / "cut")
    while not newest_step(tmp_path / "cut"):
        Event().wait(0.005)
    (tmp_path / "hold").touch()
    while not (tmp_path / "held").exists():
        Event().wait(0.005)
    os.killpg(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == RESUMABLE
    (tmp_path / "hold").unlink()
    daft_rl.transfer(Held, source=build("PPO"), resume=tmp_path / "cut")
    assert_equal_runs(tmp_path / "whole", tmp_path / "cut")


def test_an_evaluation_in_the_learning_process_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daft_rl.transfer(Signalling, "ft", build("PPO"), settings=LONG, output_dir=tmp_path / "whole")
    monkeypatch.setattr(Signalling, "folder", tmp_path)
    monkeypatch.setattr(Signalling, "learnt", 0)
    (tmp_path / "signal").touch()
    process = start_group(Signalling, LONG, tmp_path / "cut")
    process.join()
    assert process.exitcode == RESUMABLE
    state = read_state(max((tmp_path / "cut" / "checkpoints").glob("*.zip")))
    assert [point["timesteps"] for point in state["run"]["monitoring"]["points"]] == [500]
    daft_rl.transfer(Signalling, source=build("PPO"), resume=tmp_path / "cut")
    assert_equal_runs(tmp_path / "whole", tmp_path / "cut")


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


def stop_and_fail(error: Exception, learning: bool) -> None:
    """As joblib and OmegaConf do: they clean up, and fail at it."""
    with stoppable("daft_rl.benchmark"), one_message():
        try:
            with interruption.deferred() if learning else nullcontext():
                signal.raise_signal(signal.SIGTERM)
            interruption.stop()  # as a run does after its checkpoint
        except Interrupted:
            raise error from None


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("error", [AttributeError("half-made"), ConfigError("half-read")])
def test_a_stop_stays_a_stop_where_a_library_answers_by_another_error(error: Exception, learning: bool) -> None:
    with pytest.raises(SystemExit) as stop:
        stop_and_fail(error, learning)
    assert stop.value.code == RESUMABLE
    with pytest.raises(KeyError), stoppable("daft_rl.benchmark"):  # what comes later is an error again
        raise KeyError("of its own")


def test_a_signal_of_a_scheduler_reaches_its_library_after_the_run_has_stopped() -> None:
    waiting, order = Interruption(), []

    def run() -> None:
        with waiting.before_requeueing():
            with waiting.deferred():
                os.kill(os.getpid(), signal.SIGUSR2)
                assert waiting.requested
            order.append("checkpoint")
            raise Interrupted

    before = signal.signal(signal.SIGUSR2, lambda *_: order.append("queued again"))
    try:
        with pytest.raises(Interrupted):
            run()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert order == ["checkpoint", "queued again"]


def test_signals_that_nobody_waits_for_are_left_alone() -> None:
    waiting, before = Interruption(), signal.getsignal(signal.SIGUSR2)
    with waiting.before_requeueing():
        assert signal.getsignal(signal.SIGUSR2) == before


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


def test_signals_that_were_ignored_still_are() -> None:
    """As by nohup, and by shells for what runs in their background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption().listen():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGTERM) != before
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_stops_like_the_end_of_a_job() -> None:
    waiting, error = Interruption(), os.dup(2)
    try:
        with waiting.listen(), waiting.deferred():
            os.close(2)  # the message cannot be written
            os.kill(os.getpid(), signal.SIGHUP)
            assert waiting.requested
    finally:
        os.dup2(error, 2)
        os.close(error)


@pytest.mark.parametrize(
    ("program", "folder", "told"),
    [
        ("daft_rl.transfer", "a b", "python -m daft_rl.transfer 'resume=a b'"),
        ("daft_rl.benchmark", "runs/cell", "To go on: the same command."),
    ],
)
def test_a_stopped_program_tells_how_to_go_on(
    program: str, folder: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = Interrupted()
    stop.folder = Path(folder)
    with pytest.raises(SystemExit), stoppable(program):
        raise stop
    assert told in capsys.readouterr().err
