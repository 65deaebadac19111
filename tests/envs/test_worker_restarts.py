"""A worker that dies is started again once; one that hangs is reported."""

from __future__ import annotations

import os
import signal
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from daft_rl.envs.batch.workers import INTERRUPTED
from daft_rl.errors import DaftWarning, WorkerError
from tests.envs.processes import await_end
from tests.envs.toys import actions_for, bits, toy

pytestmark = pytest.mark.usefixtures("no_process_stays")


def kill_worker_of(venv: Any, index: int, number: int = signal.SIGKILL) -> None:
    pid = venv.env_method("process", indices=index)[0]["pid"]
    os.kill(pid, number)
    await_end([pid])


@pytest.mark.parametrize("space", ["box", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dict", "tuple"))])
def test_a_killed_worker_ends_the_episodes_of_its_environments_and_of_no_other(build: Any, space: str) -> None:
    venv, undisturbed = build([toy(space)] * 3, 3), build([toy(space)] * 3, 3)
    for batch in (venv, undisturbed):
        batch.seed(0)
        batch.reset()
    before = venv.step(actions_for(venv, 0))[0]
    undisturbed.step(actions_for(venv, 0))
    kill_worker_of(venv, 1)
    with pytest.warns(DaftWarning, match=r"The worker of environment 1 was killed by SIGKILL .*begin new episodes"):
        observations, rewards, dones, infos = venv.step(actions_for(venv, 1))
    others = undisturbed.step(actions_for(venv, 1))
    for i in (0, 2):
        assert infos[i].keys() == others[3][i].keys()
        assert (rewards[i], dones[i]) == (others[1][i], others[2][i])
    assert dones[1]
    assert rewards[1] == 0
    assert infos[1]["TimeLimit.truncated"]
    assert infos[1][INTERRUPTED]
    assert bits(infos[1]["terminal_observation"]) == bits(row(before, 1))
    assert bits(row(observations, 0)) == bits(row(others[0], 0))
    assert bits(row(observations, 1)) != bits(row(before, 1))
    assert not infos[0].get(INTERRUPTED)
    assert not venv.step(actions_for(venv, 2))[3][1].get(INTERRUPTED)


def row(observations: Any, i: int) -> Any:
    if isinstance(observations, dict):
        return OrderedDict((key, array[i]) for key, array in observations.items())
    return tuple(array[i] for array in observations) if isinstance(observations, tuple) else observations[i]


def test_a_reset_after_a_death_gives_what_it_always_gives(build: Any) -> None:
    venv, undisturbed = build([toy()] * 2, 2), build([toy()] * 2, 2)
    venv.reset()
    kill_worker_of(venv, 0)
    for batch in (venv, undisturbed):
        batch.seed(5)
    with pytest.warns(DaftWarning, match="SIGKILL"):
        first = venv.reset()
    assert bits(first) == bits(undisturbed.reset())
    for k in range(12):
        assert bits(venv.step(actions_for(venv, k))) == bits(undisturbed.step(actions_for(venv, k)))


def test_a_worker_that_dies_twice_is_an_error(build: Any) -> None:
    venv = build([toy(), toy(fault="SIGKILL")], 2)
    venv.reset()
    with pytest.warns(DaftWarning, match="while environment 1 was at work"):
        assert venv.step(actions_for(venv, 0))[2][1]
    with pytest.raises(WorkerError, match=r"The worker of environment 1 was killed by SIGKILL .*memory") as caught:
        venv.step(actions_for(venv, 1))
    assert caught.value.index == 1
    assert venv.closed


def test_a_worker_that_dies_before_an_answer_to_a_question_answers_it_nevertheless(build: Any) -> None:
    venv = build([toy()] * 2, 2)
    venv.reset()
    kill_worker_of(venv, 1, signal.SIGALRM)
    with pytest.warns(DaftWarning, match="killed by SIGALRM"):
        assert venv.get_attr("fault") == ["", ""]
    assert venv.step(actions_for(venv, 0))[2][1]  # the episode is lost


def test_an_environment_that_hangs_is_named(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daft_rl.envs.batch.worker_handle.GRACE_SECONDS", 0.1)
    venv = build([toy(), toy(), toy(fault="stuck")], 2, 0.3)
    venv.reset()
    with pytest.raises(WorkerError, match=r"Environment 2 has not answered within 0.3 s.*step_timeout") as caught:
        venv.step(actions_for(venv, 0))
    assert caught.value.index == 2
    assert caught.value.arguments == ("step_timeout",)
    assert venv.closed


def test_workers_leave_no_descriptor(build: Any) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = descriptors()
    for _ in range(2):
        venv = build([toy()] * 2, 2)
        venv.reset()
        kill_worker_of(venv, 0)
        with pytest.warns(DaftWarning, match="SIGKILL"):
            venv.step(np.zeros((2, 2)))
        venv.close()
    assert descriptors() == before
