"""What is called in a copy of this process: the same results, and nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from daft_rl.archives import load_agent
from daft_rl.envs import make_vec
from daft_rl.errors import ConfigError, TaskError, WorkerError
from daft_rl.run.background import Call
from daft_rl.transfer import transfer
from tests.conftest import parse

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere everything is called here")


def rollout(venv: Any) -> bytes:
    """The bits of some steps from a reset."""
    venv.seed(3)
    actions = np.random.default_rng(0).uniform(-1, 1, (30, venv.num_envs, *venv.action_space.shape))
    seen = [venv.reset(), *(part for action in actions for part in venv.step(action.astype(np.float32))[:3])]
    return b"".join(np.ascontiguousarray(array).tobytes() for array in seen)


@pytest.mark.parametrize("fork", [True, False])
def test_a_result_comes_back(fork: bool) -> None:
    call = Call(lambda: {"pid": os.getpid(), "array": np.arange(3)}, fork)
    found = call.result()
    assert (found["pid"] != os.getpid()) is fork
    assert found["array"].tolist() == [0, 1, 2]
    assert call.ready()
    assert call.result() is found
    assert (call.seconds > 0) is fork


def test_it_sees_what_was_there_when_it_began() -> None:
    read, write = os.pipe()
    data = [1]
    call = Call(lambda: os.read(read, 1) and list(data))
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
        Call(fail, fork).result()


def test_where_no_copy_can_be_made_it_is_called_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen Doors have gigabytes that they never touch, which Linux may count for a copy."""

    def fail() -> int:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(os, "fork", fail)
    with pytest.warns(UserWarning, match=r"cannot be copied: \[Errno 12\] Cannot allocate memory"):
        call = Call(os.getpid)
    assert call.result() == os.getpid()
    assert call.seconds == 0
    call.cancel()


def test_a_copy_that_is_killed_is_told() -> None:
    call = Call(lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(WorkerError, match=r"exit code -9.*evaluate_beside=false"):
        call.result()


def test_cancel_ends_it_and_what_it_has_begun_is_undone(tmp_path: Path) -> None:
    read, write = os.pipe()

    def begin() -> None:
        try:
            os.write(write, b"x")
            signal.pause()
        finally:
            (tmp_path / "undone").touch()

    call = Call(begin)
    assert os.read(read, 1) == b"x"
    os.close(write)
    call.cancel()
    assert os.read(read, 1) == b""  # nobody holds the other end any more
    assert (tmp_path / "undone").exists()
    os.close(read)


ORPHAN = """
import os, signal
from daft_rl.run.background import Call
read, write = os.pipe()
def play():
    os.write(write, b"x")
    os.write(1, b"playing")
    signal.pause()
call = Call(play)
os.read(read, 1)
{end}
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)", "raise SystemExit"])
def test_a_copy_ends_with_the_process(end: str) -> None:
    """Its output is at an end once no process holds it, the copy among them."""
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN.format(end=end)], stdout=subprocess.PIPE, timeout=60, check=False
    )
    assert done.stdout in (b"playing", b"")


@pytest.mark.parametrize("vec", ["threads", "dummy"])
def test_environments_step_there_as_here(vec: str) -> None:
    venv = make_vec("Ant", num_envs=3, vec=vec)
    first = rollout(venv)  # in threads that a copy does not have
    assert Call(lambda: rollout(venv)).result() == first
    assert rollout(venv) == first
    venv.close()


def strip(data: Any) -> Any:
    """What a run found, without how long it took."""
    return {key: value for key, value in data.items() if key not in ("wall_seconds", "phases", "seconds_beside")}


def scalars(folder: Path) -> dict[str, Any]:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/")]
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("Ant-shifted", ["algo.settings.n_steps=64"]),
        ("HalfCheetah-shifted", ["algo=crossq", "algo.settings.gradient_steps=1", "algo.settings.learning_starts=8"]),
        ("SafetyPointGoal-shifted", ["algo.settings.n_steps=64", "vec=dummy"]),
    ],
)
def test_a_transfer_is_the_same(task: str, settings: list[str], tmp_path: Path) -> None:
    """Returns, curves, archives and what TensorBoard shows at which step."""
    tiny = ["num_envs=2", "calibration.steps=100", "calibration.held_out=50", "progress_bar=false"]
    tiny += ["evaluation.episodes=2", "evaluation.episodes_during=1", "evaluation.every=150", *settings]
    found = {}
    for beside in (True, False):
        folder = tmp_path / str(beside)
        overrides = [*tiny, f"evaluate_beside={str(beside).lower()}"]
        result = transfer(task, total_timesteps=400, output_dir=folder, settings=parse(overrides))
        assert (result.seconds_beside > 0) is beside
        assert [point["timesteps"] for point in result.curve][:3] == [0, 150, 300]
        best = load_agent(folder / "best.zip").policy.state_dict()
        weights = {name: weight.tolist() for name, weight in best.items()}
        found[beside] = strip(json.loads((folder / "results.json").read_text())), scalars(folder), weights
    assert found[True] == found[False]


def refuse(task: str, *overrides: str) -> Callable[[Path], Any]:
    tiny = ["num_envs=2", "progress_bar=false", "evaluate_beside=true", *overrides]
    return lambda folder: transfer(task, total_timesteps=400, output_dir=folder, settings=parse(tiny))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (refuse("Ant-shifted", "vec=workers"), "worker processes"),
        (refuse("Ant-shifted", "evaluate_beside=maybe"), "expected auto, true or false, got 'maybe'"),
    ],
)
def test_where_it_is_impossible_it_is_refused(run: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path)
