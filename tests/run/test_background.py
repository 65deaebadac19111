"""A call in a forked process gives the same results as in this one, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from daft_rl.archives import load_agent
from daft_rl.envs import make_vec
from daft_rl.errors import ConfigError, DaftWarning, TaskError, WorkerError
from daft_rl.run.background import BackgroundCall
from daft_rl.transfer import transfer
from tests.conftest import PointMass, build, parse

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork")


def rollout(venv: Any) -> bytes:
    """The bits of some steps from a reset."""
    venv.seed(3)
    actions = np.random.default_rng(0).uniform(-1, 1, (30, venv.num_envs, *venv.action_space.shape))
    seen = [venv.reset(), *(part for action in actions for part in venv.step(action.astype(np.float32))[:3])]
    return b"".join(np.ascontiguousarray(array).tobytes() for array in seen)


@pytest.mark.parametrize("fork", [True, False])
def test_a_result_comes_back(fork: bool) -> None:
    call: BackgroundCall[dict[str, Any]] = BackgroundCall(lambda: {"pid": os.getpid(), "array": np.arange(3)}, fork)
    found = call.result()
    assert (found["pid"] != os.getpid()) is fork
    assert found["array"].tolist() == [0, 1, 2]
    assert call.ready()
    assert call.result() is found
    assert (call.seconds > 0) is fork


def test_the_fork_sees_memory_as_it_was_at_the_start() -> None:
    read, write = os.pipe()
    data = [1]
    call = BackgroundCall(lambda: os.read(read, 1) and list(data))
    assert not call.ready()
    data.append(2)
    os.write(write, b"x")
    assert call.result() == [1]
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("fork", [True, False])
def test_an_error_comes_back(fork: bool) -> None:
    def fail() -> None:
        raise TaskError("no such task")

    with pytest.raises(TaskError, match="no such task"):
        BackgroundCall(fail, fork).result()


def test_without_memory_for_a_fork_this_process_calls_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen Doors reserve gigabytes that they never touch. Linux may count them for the fork."""

    def fail() -> int:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(os, "fork", fail)
    with pytest.warns(DaftWarning, match=r"cannot be forked: \[Errno 12\] Cannot allocate memory"):
        call = BackgroundCall(os.getpid)
    assert call.result() == os.getpid()
    assert call.seconds == 0
    call.cancel()


def test_a_killed_fork_is_replaced_by_a_call_in_this_process() -> None:
    def die() -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    call = BackgroundCall(die, instead=os.getpid)
    with pytest.warns(DaftWarning, match=r"exit code -9 .*memory.*evaluate_in_background=False") as caught:
        assert call.result() == os.getpid()
    assert caught[0].message.arguments == ("evaluate_in_background",)  # type: ignore[union-attr]
    assert call.killed
    assert call.result() == os.getpid()


class OddError(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(one)


def test_an_error_that_cannot_be_sent_is_told_in_words() -> None:
    def fail() -> None:
        raise OddError(1, 2)

    with pytest.raises(WorkerError, match="OddError: 1") as caught:
        BackgroundCall(fail).result()
    assert "in fail" in str(caught.value.__cause__)


def test_cancel_ends_the_fork_and_its_cleanup_runs(tmp_path: Path) -> None:
    read, write = os.pipe()

    def write_and_wait() -> None:
        try:
            os.write(write, b"x")
            signal.pause()
        finally:
            (tmp_path / "cleaned").touch()

    call = BackgroundCall(write_and_wait)
    assert os.read(read, 1) == b"x"
    os.close(write)
    call.cancel()
    assert os.read(read, 1) == b""  # no process holds the other end any more
    assert (tmp_path / "cleaned").exists()
    os.close(read)


def test_a_signal_to_all_processes_of_a_job_leaves_the_fork_to_its_parent() -> None:
    def signal_itself() -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "finished"

    call = BackgroundCall(signal_itself)
    while not call.wait(10):
        pass
    assert call.result() == "finished"
    assert not call.killed


@pytest.mark.parametrize("finish", ["result", "cancel"])
def test_calls_leave_no_file_descriptors_open(finish: str) -> None:
    def open_descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    BackgroundCall(os.getpid).result()  # whatever multiprocessing opens once
    before = open_descriptors()
    calls = [BackgroundCall(os.getpid) for _ in range(10)]
    for call in calls:
        getattr(call, finish)()
    assert open_descriptors() == before
    for call in calls:
        call.cancel()  # may come after the result
        call.cancel()
    assert open_descriptors() == before


ORPHAN = """
import os, signal
from daft_rl.run.background import BackgroundCall
read, write = os.pipe()
def play():
    os.write(write, b"x")
    os.write(1, b"playing")
    signal.pause()
call = BackgroundCall(play)
os.read(read, 1)
{end}
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)", "raise SystemExit"])
def test_a_fork_ends_with_its_parent(end: str) -> None:
    """The output of the parent ends only when the fork has ended too, because both hold it."""
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN.format(end=end)], stdout=subprocess.PIPE, timeout=60, check=False
    )
    assert done.stdout in (b"playing", b"")


@pytest.mark.parametrize("vec", ["threads", "dummy"])
def test_environments_step_alike_in_the_fork(vec: str) -> None:
    venv = make_vec("Ant", num_envs=3, vec=vec)
    first = rollout(venv)  # starts threads, which the fork does not have
    assert BackgroundCall(lambda: rollout(venv)).result() == first
    assert rollout(venv) == first
    venv.close()


def without_times(data: Any) -> Any:
    """Results of a run without its times."""
    return {key: value for key, value in data.items() if key not in ("wall_seconds", "phases", "seconds_beside")}


def scalars(folder: Path) -> dict[str, Any]:
    events = EventAccumulator(str(folder)).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/")]
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


@pytest.mark.usefixtures("short_episodes")
@pytest.mark.parametrize(
    ("env", "algo", "settings"),
    [
        ("Ant-shifted", "ppo", ["algo.settings.n_steps=64"]),
        (
            PointMass,
            "crossq",
            ["algo.settings.train_freq=4", "algo.settings.gradient_steps=1", "algo.settings.learning_starts=8"],
        ),
        pytest.param(
            *("SafetyPointGoal-shifted", "ppo", ["algo.settings.n_steps=64", "vec=dummy"]), marks=pytest.mark.slow
        ),
    ],
)
def test_a_transfer_with_forks_equals_one_without(env: Any, algo: str, settings: list[str], tmp_path: Path) -> None:
    """Returns, curves, archives, and values and steps in TensorBoard: of threads, of a replay buffer, with costs."""
    tiny = ["num_envs=2", "calibration.steps=100", "calibration.held_out=50", "progress_bar=false"]
    tiny += ["evaluation.episodes=2", "evaluation.episodes_during=1", "evaluation.every=100", *settings]
    source = build("CrossQ") if env is PointMass else None
    found = {}
    for forks in (True, False):
        folder = tmp_path / str(forks)
        overrides = [*tiny, f"evaluate_in_background={str(forks).lower()}"]
        result = transfer(
            env, "daft", source=source, algo=algo, total_timesteps=256, output_dir=folder, settings=parse(overrides)
        )
        assert (result.seconds_in_background > 0) is forks
        assert [point["timesteps"] for point in result.curve][:3] == [0, 100, 200]
        best = load_agent(folder / "best.zip").policy.state_dict()
        weights = {name: weight.tolist() for name, weight in best.items()}
        found[forks] = without_times(json.loads((folder / "results.json").read_text())), scalars(folder), weights
    assert found[True] == found[False]


@pytest.mark.parametrize("number", [1, 2])
def test_a_transfer_whose_evaluation_is_killed_gives_the_same_results(number: int, tmp_path: Path) -> None:
    """The first one plays the source, which gets other layers meanwhile; the second one plays while it learns."""
    source = PPO("MlpPolicy", PointMass(), n_steps=64, batch_size=64, seed=0, device="cpu")
    tiny = ["num_envs=2", "calibration.steps=100", "calibration.held_out=50", "progress_bar=false"]
    tiny += [
        "evaluation.episodes=2",
        "evaluation.episodes_during=1",
        "evaluation.every=150",
        "algo.settings.n_steps=64",
    ]
    forks = tmp_path / "forks"

    def kill_one(_: int) -> None:
        with forks.open("a") as file:
            file.write("x")
        if forks.stat().st_size == number:
            (folder / ".unfinished-best").mkdir()
            os.kill(os.getpid(), signal.SIGKILL)

    found = {}
    for killed in (True, False):
        folder = tmp_path / str(killed)
        overrides = parse([*tiny, f"evaluate_in_background={str(killed).lower()}"])
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            patch.setattr("daft_rl.run.background.os.nice", kill_one)
            transfer(PointMass, "daft", source, total_timesteps=400, output_dir=folder, settings=overrides)
        assert any("exit code -9" in str(warning.message) for warning in told) is killed
        assert not list(folder.glob(".*"))
        best = load_agent(folder / "best.zip").policy.state_dict()
        weights = {name: weight.tolist() for name, weight in best.items()}
        found[killed] = without_times(json.loads((folder / "results.json").read_text())), scalars(folder), weights
    assert found[True] == found[False]


def refuse(task: str, *overrides: str) -> Callable[[Path], Any]:
    tiny = ["num_envs=2", "progress_bar=false", "evaluate_in_background=true", *overrides]
    return lambda folder: transfer(task, "daft", total_timesteps=400, output_dir=folder, settings=parse(tiny))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (refuse("Ant-shifted", "vec=workers"), "worker processes"),
        (refuse("Ant-shifted", "evaluate_in_background=maybe"), "expected auto, true or false, got 'maybe'"),
    ],
)
def test_forking_is_refused_where_it_is_impossible(run: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path)
