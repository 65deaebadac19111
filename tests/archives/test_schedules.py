"""Learning rates and clip ranges of old archives are read out of pickled functions that are not executed."""

from __future__ import annotations

import base64
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO

from daft_rl.archives import load_agent, read_archive, schedules
from daft_rl.archives.schedules import read_schedule
from tests.archives.helpers import edit, make, save

Function = Callable[[float], float]
UTILS = "stable_baselines3.common.utils"
LINEAR = f"<class '{UTILS}.LinearSchedule'>"
numbers = st.floats(0, 1e6)


def constant_fn(val: float) -> Function:
    """SB3's, as it was."""

    def func(_: float) -> float:
        return val

    return func


def get_linear_fn(start: float, end: float, end_fraction: float) -> Function:
    """SB3's, as it was."""

    def func(progress_remaining: float) -> float:
        if (1 - progress_remaining) > end_fraction:
            return end
        return start + (1 - progress_remaining) * (end - start) / end_fraction

    return func


def linear_schedule(initial_value: float) -> Function:
    """rl-zoo's."""

    def func(progress_remaining: float) -> float:
        return progress_remaining * initial_value

    return func


def my_schedule(val: float) -> Function:
    """A user's, with a variable that has the name of SB3's."""

    def func(progress_remaining: float) -> float:
        return val * progress_remaining**2

    return func


def calls_another() -> Any:
    """A user's, at the top of a script, which calls SB3's."""
    script: dict[str, Any] = {"__name__": "__main__", "base": constant_fn(0.1)}
    exec("def warm_up(left): return base(left) * (left < 0.9)", script)
    return script["warm_up"]


def get_schedule_fn(value_schedule: Function) -> Function:
    """SB3's, as it was."""
    return lambda progress_remaining: float(value_schedule(progress_remaining))


def entry(function: Any) -> dict[str, Any]:
    """As SB3 writes it. Functions of this module are pickled by value, as those of an archive were."""
    text = base64.b64encode(function if isinstance(function, bytes) else cloudpickle.dumps(function)).decode()
    return {":type:": "<class 'function'>", ":serialized:": text}


@given(number=numbers)
@pytest.mark.parametrize("wrap", [lambda function: function, get_schedule_fn])
def test_constants_are_read(wrap: Callable[[Function], Function], number: float) -> None:
    assert read_schedule(entry(wrap(constant_fn(number)))) == number


@given(start=numbers, end=numbers | st.just(0), end_fraction=numbers | st.just(1))
@pytest.mark.parametrize("wrap", [lambda function: function, get_schedule_fn])
def test_linear_schedules_are_read(
    wrap: Callable[[Function], Function], start: float, end: float, end_fraction: float
) -> None:
    read = read_schedule(entry(wrap(get_linear_fn(start, end, end_fraction))))
    assert read == {":type:": LINEAR, "start": start, "end": end, "end_fraction": end_fraction}


@given(number=numbers)
def test_the_schedule_of_rl_zoo_falls_to_zero(number: float) -> None:
    read = read_schedule(entry(get_schedule_fn(linear_schedule(number))))
    assert read == {":type:": LINEAR, "start": number, "end": 0.0, "end_fraction": 1.0}


def test_closures_of_early_versions_of_cloudpickle_are_lists() -> None:
    code = (1, 0, 1, 1, 19, b"\x88\x00S\x00")
    early: dict[str, Any] = {"code": code, "closure_values": [0.25], "defaults": None, "line": [7]}
    early["qualname"] = "constant_fn.<locals>.func"
    assert read_schedule(entry(pickle.dumps(early))) == 0.25


@pytest.mark.parametrize(
    "function",
    [
        *(my_schedule(0.1), get_schedule_fn(my_schedule(0.1)), get_schedule_fn, lambda _: 0.1),
        *(calls_another(), get_schedule_fn(calls_another()), constant_fn(None)),  # type: ignore[arg-type]
    ],
)
def test_other_functions_are_left_alone(function: Any) -> None:
    assert read_schedule(entry(function)) == entry(function)


@pytest.mark.parametrize(
    "script",
    [
        "def linear_schedule(val):\n def func(left): return max(left * val, 1e-5)\n return func",
        "def linear_schedule(val):\n def func(left): return left * left * val\n return func",
        "def constant_fn(val):\n def func(_): return 0.1 * val\n return func",
        "def get_schedule_fn(one):\n return lambda left: 0.5 * float(one(left))",
        "import functools\ndef halved(one):\n @functools.wraps(one)\n def half(_): return one(_) / 2\n return half",
    ],
)
def test_a_name_is_no_proof_of_what_a_function_computes(script: str) -> None:
    made: dict[str, Any] = {"__name__": "__main__"}
    exec(script, made)
    make_one = list(made.values())[-1]
    function = make_one(0.1 if "val" in script else constant_fn(0.1))
    assert read_schedule(entry(function)) == entry(function)


def test_what_only_holds_a_schedule_is_none() -> None:
    held = entry(constant_fn(0.1)) | {":type:": "<class 'my_functions.WarmUp'>"}
    assert read_schedule(held) == held


BYTECODE = {
    "3.6": ("88005300", "7c00880014005300"),
    "3.11": ("9501970089015300", "950197007c0089017a0500005300"),
    "3.13": ("3e01950054012400", "3e019500550054012d0500002400"),
}


def test_functions_of_this_python_are_known_without_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "CODES", dict.fromkeys(schedules.CODES, frozenset()))
    assert read_schedule(entry(get_schedule_fn(constant_fn(0.1)))) == 0.1
    for function in (linear_schedule(0.1), get_linear_fn(0.1, 0.0, 1.0)):
        assert read_schedule(entry(function))["start"] == 0.1


@pytest.mark.parametrize("version", BYTECODE)
def test_functions_of_other_versions_of_python_are_read(version: str) -> None:
    constant, linear = map(bytes.fromhex, BYTECODE[version])
    function = {"code": (1, 19, constant), "closure_values": [0.25], "none": None, "line": [7]}
    assert read_schedule(entry(pickle.dumps(function | {"qualname": "constant_fn.<locals>.func"}))) == 0.25
    named = function | {"code": (1, 19, linear), "qualname": "linear_schedule.<locals>.func"}
    assert read_schedule(entry(pickle.dumps(named)))["start"] == 0.25


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (f"{UTILS}.ConstantSchedule", {"val": "1e999"}),
        (f"{UTILS}.LinearSchedule", {"start": 1.0, "end": 0.0, "end_fraction": 0.0}),  # it would divide by 0
        (f"{UTILS}.FloatSchedule", {"value_schedule": "ConstantSchedule(val=-e)"}),
        ("mine.LinearSchedule", {"start": 1.0, "end": 0.0, "end_fraction": 1.0}),
    ],
)
def test_objects_that_are_no_usable_schedules_are_told(kind: str, fields: dict[str, Any], tmp_path: Path) -> None:
    def set_rate(data: dict[str, Any]) -> None:
        data["learning_rate"] = {":type:": f"<class '{kind}'>", **fields}

    found = read_archive(edit(save(make(PPO), tmp_path), set_rate))
    assert "learning_rate" not in found.hyperparameters
    assert kind in found.unreadable["learning_rate"]


@given(st.binary(max_size=200))
def test_other_bytes_are_left_alone(raw: bytes) -> None:
    assert read_schedule(entry(raw)) == entry(raw)


@pytest.mark.parametrize("value", [1e-3, None, "lin_0.1", {":type:": "<class 'function'>"}])
def test_what_is_no_pickle_is_left_alone(value: Any) -> None:
    assert read_schedule(value) == value


def test_an_agent_learns_at_the_rate_of_its_archive(tmp_path: Path) -> None:
    def age(data: dict[str, Any]) -> None:
        data["learning_rate"] = data["lr_schedule"] = entry(get_linear_fn(2e-5, 1e-5, 1.0))
        data["clip_range"] = entry(get_schedule_fn(constant_fn(0.1)))

    path = edit(save(make(PPO), tmp_path), age)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_agent(path)
    assert isinstance(model, PPO)
    assert [model.lr_schedule(left) for left in (1, 0.5, 0)] == pytest.approx([2e-5, 1.5e-5, 1e-5])
    assert model.clip_range(1) == 0.1  # type: ignore[operator]


def test_the_schedules_of_rl_zoo_are_read_from_their_text(tmp_path: Path) -> None:
    def as_rl_zoo(data: dict[str, Any]) -> None:
        wrapped = {
            ":type:": "<class 'stable_baselines3.common.utils.FloatSchedule'>",
            "value_schedule": "SimpleLinearSchedule(initial_value=0.2)",
        }
        data["learning_rate"] = {":type:": "<class 'rl_zoo3.utils.SimpleLinearSchedule'>", "initial_value": 3e-4}
        data["clip_range"] = wrapped

    model = load_agent(edit(save(make(PPO), tmp_path), as_rl_zoo))
    assert isinstance(model, PPO)
    assert [model.lr_schedule(left) for left in (1, 0.5, 0)] == pytest.approx([3e-4, 1.5e-4, 0])
    assert model.clip_range(0.5) == pytest.approx(0.1)  # type: ignore[operator]
