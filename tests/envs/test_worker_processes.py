"""Worker processes report what went wrong in them, and leave nothing behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from daft_rl.envs.batch import worker_handle
from daft_rl.envs.batch.workers import WorkerVecEnv, split_environments
from daft_rl.errors import DaftWarning, TaskError, WorkerError
from tests.envs.processes import DEADLINE, alive, await_end, worker_processes
from tests.envs.toys import actions_for, toy

pytestmark = pytest.mark.usefixtures("no_process_stays")


def test_workers_share_the_environments(build: Any) -> None:
    before = dict(os.environ)
    venv = build([toy()] * 5, 2)
    processes = venv.env_method("process")
    pids = [process["pid"] for process in processes]
    assert len(set(pids[:2])) == len(set(pids[2:])) == 1
    assert len(set(pids) | {os.getpid()}) == 3
    for process in processes:
        assert process["blas"] == ["1"] * 3
        assert process["threads"] == 2  # one steps, one waits for the parent's end
    assert dict(os.environ) == before
    venv.step_async(actions_for(venv, 0))
    venv.close()
    assert venv.closed
    assert not any(map(alive, pids))
    venv.close()
    with pytest.raises(WorkerError, match="closed"):
        venv.reset()


def test_there_are_never_more_workers_than_environments_or_cores(build: Any, monkeypatch: Any) -> None:
    assert [len(share) for share in split_environments(2, 5)] == [1, 1]
    assert [len(share) for share in split_environments(16, 3)] == [5, 5, 6]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert split_environments(16, None) == [range(16)]


def test_workers_end_when_their_batch_is_deleted() -> None:
    venv = WorkerVecEnv([toy()], 1)
    pids = [process["pid"] for process in venv.env_method("process")]
    del venv
    gc.collect()
    assert not any(map(alive, pids))


@pytest.mark.parametrize(
    ("fault", "message", "trace"),
    [
        ("constructor", r"Environment 1 failed in __init__\(\): TaskError: Unknown task 'Toi'", "in __init__"),
        (
            "reset",
            r"Environment 1 failed in reset\(\): ValueError: no reset today \((toys.py|<dynamic-code>), line \d+\)\.$",
            "in reset",
        ),
        ("step", r"Environment 1 failed in step\(\): ZeroDivisionError: no step today", "in fail"),
        ("exit", r"Environment 1 failed in step\(\): SystemExit: 5", "in fail"),
    ],
)
def test_errors_name_environment_and_cause(fault: str, message: str, trace: str) -> None:
    pids: list[int] = []

    def play() -> None:
        venv = WorkerVecEnv([toy(), toy(fault=fault)], 1 if fault in ("reset", "exit") else 2)
        pids.extend(process["pid"] for process in venv.env_method("process"))
        venv.reset()
        venv.step(actions_for(venv, 0))

    with pytest.raises(WorkerError, match=message) as caught:
        play()
    assert not any(map(alive, pids))
    assert caught.value.index == 1
    assert trace in str(caught.value.__cause__)


def test_a_method_that_fails_closes_the_batch(build: Any) -> None:
    venv = build([toy()] * 2, 1)
    with pytest.raises(WorkerError, match=r"Environment 1 failed in fail\(\): ZeroDivisionError"):
        venv.env_method("fail", "step", indices=1)
    assert venv.closed
    venv = build([toy()] * 2, 1)
    with pytest.warns(DaftWarning, match="SIGKILL"), pytest.raises(WorkerError, match="environments 0 to 1 was killed"):
        venv.env_method("fail", "SIGKILL", indices=1)  # and again, when it is asked again
    assert venv.closed
    venv = build([toy()], 1)
    with pytest.raises(WorkerError, match=r"The worker of environment 0 .*TypeError: cannot pickle"):
        venv.get_attr("lock")


def test_impossible_arguments_and_calls_are_errors(build: Any) -> None:
    for workers in (0, -1, 1.5, True):
        with pytest.raises(TaskError, match="workers: expected a whole number >= 1"):
            WorkerVecEnv([toy()], workers)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="env_fns: expected at least one"):
        WorkerVecEnv([])
    env = gym.make("CartPole-v1")
    with pytest.raises(
        WorkerError, match=r"Environment 1 failed in __init__.*ValueError: .*the same environment twice"
    ):
        WorkerVecEnv([lambda: env] * 2, 1)
    venv = build([toy()] * 2, 1)
    venv.reset()
    with pytest.raises(TaskError, match="actions: expected 2"):
        venv.step_async(np.zeros((3, 2)))
    with pytest.raises(WorkerError, match="without step_async"):
        venv.step_wait()
    venv.step(actions_for(venv, 0))  # nothing is lost


@pytest.mark.parametrize("delay", [0.02, 0.3, 1.0])
def test_an_interrupt_at_any_moment_leaves_no_process(delay: float, monkeypatch: Any) -> None:
    """The interrupt comes in the constructor, or in a step that never ends."""
    monkeypatch.setattr(worker_handle, "GRACE_SECONDS", 0.1)
    before = set(worker_processes())
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(delay, signal.pthread_kill, (main, signal.SIGINT))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in background jobs
    venv = None
    try:
        timer.start()
        venv = WorkerVecEnv([toy(fault="stuck")] * 2, 2)
        venv.reset()
        venv.step(actions_for(venv, 0))
    except KeyboardInterrupt:
        pass
    finally:
        timer.join()
        signal.signal(signal.SIGINT, handler)
    assert venv is None or venv.closed
    await_end(list(set(worker_processes()) - before))


SCRIPT = """
import os, signal, sys, threading
import gymnasium as gym, numpy as np
import daft_rl.envs.batch.worker_handle
from daft_rl.envs.batch.workers import WorkerVecEnv

daft_rl.envs.batch.worker_handle.GRACE_SECONDS = 0.1

class Mark: pass

class Mine(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)
    mark = Mark()
    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {"pid": os.getpid()}
    def step(self, action):
        import daft_rl.envs.batch.worker_process
        daft_rl.envs.batch.worker_process.GRACE_SECONDS = 0.1
        if how != "exit":
            threading.Event().wait()
        return np.zeros(2, np.float32), 0.0, False, False, {}

for how in ("SIGKILL", "SIGINT", "exit"):  # forks, because the imports above take seconds
    if how == "exit" or os.fork() == 0:
        break
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in background jobs
if how != "exit":
    os.setsid()
os.dup2(os.open(how + ".err", os.O_WRONLY | os.O_CREAT), 2)

venv = WorkerVecEnv([Mine] * 2, 1 if how == "exit" else 2)
assert all(isinstance(mark, Mark) for mark in venv.get_attr("mark"))
venv.reset()
print(how, os.getpid(), *{info["pid"] for info in venv.reset_infos}, flush=True)
venv.step(np.zeros(2, int))
"""


def test_scripts_leave_nothing_behind(tmp_path: Path) -> None:
    """The scripts have no ``if __name__ == "__main__"`` and never close their environments."""
    (tmp_path / "script.py").write_text(SCRIPT)
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    script = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=os.environ | path
    )
    assert script.stdout is not None
    seen = set()
    for line in script.stdout:  # until all writers have ended
        how, main, *workers = line.split()
        seen.add(how)
        if how == "SIGKILL":
            os.kill(int(main), signal.SIGKILL)  # while its workers are busy
        if how == "SIGINT":
            os.killpg(int(main), signal.SIGINT)  # to the workers too, as a terminal does
        await_end([int(pid) for pid in ([main, *workers] if how != "exit" else workers)])
    assert script.wait(DEADLINE) == 0
    errors = {how: (tmp_path / f"{how}.err").read_text() for how in ("exit", "SIGINT", "SIGKILL")}
    assert seen == set(errors), errors
    assert (errors["exit"], errors["SIGKILL"]) == ("", "")
    assert errors["SIGINT"].rstrip().endswith("KeyboardInterrupt")
    assert errors["SIGINT"].count("Traceback") == 1, errors["SIGINT"]
