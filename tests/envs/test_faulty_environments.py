"""A faulty environment is named in one line, with its seed, its step, and what it did."""

from __future__ import annotations

import traceback
from functools import partial
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from daft_rl.envs import make_vec
from daft_rl.envs.batch.serial import SerialVecEnv
from daft_rl.envs.batch.watched import WatchedVecEnv
from daft_rl.errors import DaftWarning, DivergenceError, FaultyEnvironmentError, TaskError
from tests.envs.faulty import NOT_FINITE, ODD, RAISED, RESETS, STEPS, Faulty, Unseeded
from tests.envs.toys import actions_for, bits, toy


def play(vec: str, fault: str) -> list[Any]:
    """Play in three environments. In this process the second one is faulty, in workers all are."""
    faulty = partial(Faulty, fault)
    made = iter((Faulty, faulty, Faulty))
    venv: Any = WatchedVecEnv(make_vec(faulty if vec == "workers" else lambda: next(made)(), 3, vec=vec))
    try:
        venv.seed(100)
        return [venv.reset(), *(venv.step(np.zeros((3, 1), np.float32)) for _ in range(8))]
    finally:
        venv.close()


@pytest.mark.parametrize("what", RAISED)
@pytest.mark.parametrize("method", ["init", "reset", "step"])
def test_what_an_environment_raises_is_told_in_one_line(method: str, what: str) -> None:
    with pytest.raises(FaultyEnvironmentError) as caught:
        play("dummy", f"{method} raises: {what}")
    message, name = str(caught.value), type(RAISED[what]()).__name__
    called = {"init": "__init__"}.get(method, method)
    assert message.startswith(f"Environment 1 failed in {called}(): {name}")
    assert caught.value.index == 1
    assert "\n" not in message
    assert len(message) < 600
    assert "(faulty.py, line " in message
    trace = "".join(traceback.format_exception(caught.value))
    assert f"{name}" in trace
    if method != "init":
        where = "at step 5" if method == "step" else "at the start"
        assert message.endswith(f"It was {where} of episode 1 since seed 101.")


@pytest.mark.parametrize("what", STEPS)
def test_a_step_that_returns_something_else_is_explained(what: str) -> None:
    with pytest.raises(FaultyEnvironmentError) as caught:
        play("dummy", f"step returns: {what}")
    if what == "info lock":  # it is copied after all have stepped
        assert "cannot pickle" in str(caught.value)
        return
    assert str(caught.value).startswith(
        "Environment 1 returned something else from step() than an observation, a number"
    )
    assert str(caught.value).endswith("It was at step 5 of episode 1 since seed 101.")


@pytest.mark.parametrize("what", [what for what in RESETS if what != "observation nan"])
def test_a_reset_that_returns_something_else_is_explained(what: str) -> None:
    with pytest.raises(
        FaultyEnvironmentError, match=r"^Environment 1 returned something else from reset\(\) than an obs"
    ):
        play("dummy", f"reset returns: {what}")


@pytest.mark.parametrize("fault", [*(f"step gives: {what}" for what in NOT_FINITE), "reset returns: observation nan"])
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_number_that_is_not_finite_is_named(fault: str) -> None:
    kind = fault.partition(": ")[2].split()[0]
    when = "at step 5" if fault.startswith("step") else "at the start"
    with pytest.raises(
        DivergenceError,
        match=rf"Environment 1: the {kind} is -?(nan|inf)( \(entr.* of 3\))?\. It was {when} of episode 1 ",
    ):
        play("dummy", fault)


@pytest.mark.parametrize(("fault", "entries"), [("nan", "entries 0, 1, 2 of 3"), ("one nan", "entry 0 of 3")])
def test_the_entries_that_are_not_finite_are_named(fault: str, entries: str) -> None:
    with pytest.raises(DivergenceError, match=rf"the observation is nan \({entries}\)\. It was at step 5 of"):
        play("dummy", f"step gives: observation {fault}")


@pytest.mark.parametrize("vec", ["dummy", "workers"])
def test_an_environment_of_old_gym_is_told_what_to_change(vec: str) -> None:
    with pytest.raises(FaultyEnvironmentError, match=r"return terminated and truncated in place of done\. It was at"):
        play(vec, "step returns: four values")
    venv = make_vec(Unseeded, 1, vec=vec)
    try:
        venv.seed(0)
        with pytest.raises(FaultyEnvironmentError, match=r"Gymnasium calls reset\(seed=.*\), take both\."):
            venv.reset()
    finally:
        venv.close()


@pytest.mark.parametrize("what", ODD)
def test_what_has_always_worked_works(what: str) -> None:
    assert len(play("dummy", f"step has: {what}")) == 9


def test_an_environment_that_cannot_be_closed_is_told_and_the_others_are_closed() -> None:
    with pytest.warns(DaftWarning, match=r"Environment 1 failed in close\(\): RuntimeError: boom"):
        play("dummy", "close raises: RuntimeError")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("init raises: lines", r"Environment 0 failed in __init__\(\): ValueError: first line second line"),
        (
            "step raises: SystemExit",
            r"Environment 0 failed in step\(\): SystemExit: 3 .*at step 5 of episode 1 since seed",
        ),
        ("step returns: observation longer", r"an observation of shape \(6,\), expected \(3,\)"),
        ("step returns: info lock", "cannot pickle"),
        ("step gives: reward nan", "Environment 0: the reward is nan"),
    ],
)
def test_workers_tell_the_same(fault: str, message: str) -> None:
    with pytest.raises((FaultyEnvironmentError, DivergenceError), match=message) as caught:
        play("workers", fault)
    assert "\n" not in str(caught.value)


def test_an_environment_that_hangs_in_this_process_is_named() -> None:
    venv = SerialVecEnv([Faulty, partial(Faulty, "step ends: hang", 1)], step_timeout=0.1)
    venv.reset()
    with pytest.raises(FaultyEnvironmentError, match=r"Environment 1 has not answered within 0.1 s"):
        venv.step(np.zeros((2, 1)))


def test_errors_of_ours_stay_as_they_are() -> None:
    with pytest.raises(TaskError, match="Unknown task 'Toi'"):
        SerialVecEnv([toy(fault="constructor")])


@pytest.mark.parametrize("space", ["box", "image", "discrete", "dict", "tuple"])
def test_the_batch_equals_sb3s(space: str) -> None:
    batches = [kind([toy(space)] * 3) for kind in (DummyVecEnv, SerialVecEnv)]
    for venv in batches:
        venv.seed(0)
    assert bits(batches[0].reset()) == bits(batches[1].reset())
    for k in range(30):
        assert bits(batches[0].step(actions_for(batches[0], k))) == bits(batches[1].step(actions_for(batches[1], k)))
