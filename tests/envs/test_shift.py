"""Shifts check their values, keep their types, and resolve name patterns."""

from __future__ import annotations

import copy
import pickle
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daft_rl.envs import Shift, read_shift
from daft_rl.envs.mujoco import MujocoShift
from daft_rl.envs.registered import RegisteredShift
from daft_rl.envs.robosuite import RobosuiteShift
from daft_rl.envs.safety import SafetyShift
from daft_rl.envs.shift import resolve_pattern
from daft_rl.errors import TaskError


@settings(deadline=None, max_examples=50)
@given(
    scale=st.dictionaries(st.sampled_from(["a*", "b", "*", "ab"]), st.floats(0.1, 10), max_size=4),
)
def test_patterns_multiply(scale: dict[str, float]) -> None:
    factors = resolve_pattern("mass", scale, ["ab", "b", "c"])
    fits = {"ab": ["a*", "*", "ab"], "b": ["b", "*"], "c": ["*"]}
    for name, patterns in fits.items():
        expected = np.prod([scale.get(pattern, 1.0) for pattern in patterns])
        assert factors.get(name, 1.0) == pytest.approx(expected)


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(TaskError, match=r"shift\.mass: 'knee' matches no name. What exists: ankle, hip"):
        resolve_pattern("mass", {"knee": 0.5}, ["hip", "ankle"])


@settings(deadline=None, max_examples=30)
@given(gravity=st.floats(-2, 5), friction=st.floats(0, 10), noise=st.floats(0, 1), delay=st.integers(0, 5))
def test_changes_rebuild_the_shift(gravity: float, friction: float, noise: float, delay: int) -> None:
    shift = MujocoShift(gravity=gravity, friction=friction, observation_noise=noise, action_delay=delay)
    assert MujocoShift.from_dict(shift.changes()) == shift
    assert read_shift("Ant", shift.changes()) == shift


def test_numbers_of_numpy_are_numbers() -> None:
    shift = read_shift("Ant", {"gravity": np.float32(0.5), "action_delay": np.int64(2)})
    assert shift.changes() == {"gravity": 0.5, "action_delay": 2}
    assert [type(value) for value in shift.changes().values()] == [int, float]
    assert MujocoShift(wind=np.array([1.0, 0.0, 0.0]), density=1.2).wind == (1.0, 0.0, 0.0)  # type: ignore[arg-type]


def test_values_keep_their_type() -> None:
    shift = MujocoShift(gravity=2, mass={"torso": 3}, observation_scale=1)
    assert repr(shift.changes()) == "{'gravity': 2, 'mass': {'torso': 3}}"
    assert type(shift.observation_scale) is int


@pytest.mark.parametrize("shift", [Shift(), MujocoShift(), RobosuiteShift(), SafetyShift(), RegisteredShift()])
def test_default_values_change_nothing(shift: Shift) -> None:
    assert shift.changes() == {}
    assert [field.name for field in fields(shift)][: len(fields(Shift()))] == list(Shift.__dataclass_fields__)


def test_a_shift_can_be_pickled_copied_and_replaced() -> None:
    shift = RobosuiteShift(door_offset=[0, 0.1], robot="Sawyer")  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(shift)) == copy.deepcopy(shift) == shift
    assert shift.door_offset == (0.0, 0.1, 0.0)
    assert replace(shift, latch=False).changes() == shift.changes() | {"latch": False}
    with pytest.raises(AttributeError):
        shift.latch = False  # type: ignore[misc]


@pytest.mark.parametrize(
    ("shift_type", "values", "message"),
    [
        (Shift, {"nope": 1}, "shift.nope does not exist. What exists: observation_noise"),
        (Shift, {3: 1}, "shift.3 does not exist"),
        (Shift, {"action_delay": 1.5}, "action_delay: expected a whole number, got 1.5"),
        (Shift, {"action_delay": -1}, "action_delay: expected a number of at least 0, got -1"),
        (Shift, {"observation_draw": True}, "observation_draw: expected a whole number, got True"),
        (Shift, {"observation_noise": "1"}, "observation_noise: expected a number, got '1'"),
        (Shift, {"observation_scale": float("inf")}, "expected a finite number, got inf"),
        (MujocoShift, {"mass": -1}, "mass: expected a number above 0 or names with values, got -1"),
        (MujocoShift, {"mass": {"torso": 0}}, "mass.torso: expected a number above 0, got 0"),
        (MujocoShift, {"joint_range": {"hip_[12]": -1}}, r"joint_range.hip_\[12\]: expected a number of at least 0"),
        (MujocoShift, {"friction": -0.1}, "friction: expected a number of at least 0"),
        (MujocoShift, {"gravity": float("nan")}, "gravity: expected a finite number, got nan"),
        (MujocoShift, {"gravity": "half"}, "gravity: expected a number, got 'half'"),
        (MujocoShift, {"wind": [1, 2]}, r"wind: expected three velocities \(m/s\), got \[1, 2\]"),
        (MujocoShift, {"wind": 3, "density": 1.2}, "wind: expected three velocities"),
        (MujocoShift, {"wind": [1, "a", 2], "density": 1.2}, "wind: expected a number, got 'a'"),
        (MujocoShift, {"wind": [1, 0, 0]}, "set shift.density too"),
        (
            RobosuiteShift,
            {"robot": "Baxter"},
            "robot: expected one of Panda, Sawyer, IIWA, Kinova3, UR5e, got 'Baxter'",
        ),
        (RobosuiteShift, {"controller_gain": 0}, "controller_gain: expected a number above 0"),
        (RobosuiteShift, {"hinge_friction": -1}, "hinge_friction: expected a number of at least 0"),
        (RobosuiteShift, {"arm_mass": float("nan")}, "arm_mass: expected a finite number"),
        (RobosuiteShift, {"latch": 1}, "latch: expected true or false, got 1"),
        (RobosuiteShift, {"door_offset": 0.1}, r"door_offset: expected x, y \(m\) and optionally yaw \(rad\)"),
        (RobosuiteShift, {"markers": 1.5}, "markers: expected a whole number"),
        (RobosuiteShift, {"markers": 1}, "markers: expected a number of at least 2"),
        (RobosuiteShift, {"line_width": 9.0}, "line_width: expected a number of at most 5"),
        (RobosuiteShift, {"table_height": -0.5}, "table_height: expected a number of at least -0.1"),
        (SafetyShift, {"hazards": 0}, "hazards: expected a number of at least 1, got 0"),
        (SafetyShift, {"hazards": 60}, "hazards: expected a number of at most 30, got 60"),
        (SafetyShift, {"hazards": 2.5}, "hazards: expected a whole number"),
        (SafetyShift, {"hazard_size": 0}, "hazard_size: expected a number above 0"),
        (SafetyShift, {"level": 12}, "level: expected a number of at most 9"),
        (RegisteredShift, {"kwargs": 3}, "kwargs: expected names with values, got 3"),
        (
            RegisteredShift,
            {"wrappers": "my_package:MyWrapper"},
            "wrappers: expected a list, got 'my_package:MyWrapper'",
        ),
        (RegisteredShift, {"gravity": 5.0}, "gravity does not exist. What exists: .*kwargs"),
    ],
)
def test_errors_name_field_value_and_expectation(shift_type: type[Shift], values: dict[Any, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        shift_type.from_dict(values)
