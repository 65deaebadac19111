"""Shifts reach the physics of Gymnasium's MuJoCo tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from daft_rl.envs import make
from daft_rl.errors import TaskError
from tests.envs.rollouts import model_of


@pytest.mark.parametrize(
    ("shift", "field", "factor"),
    [
        ({"gravity": 0.5}, lambda m: m.opt.gravity[2], 0.5),
        ({"friction": 2.0}, lambda m: m.geom_friction, 2.0),
        ({"mass": 3.0}, lambda m: m.body_mass[1:], 3.0),
        ({"mass": 3.0}, lambda m: m.body_inertia[1:], 3.0),
        ({"mass": 3.0}, lambda m: m.body_subtreemass, 3.0),
        ({"damping": 4.0}, lambda m: m.dof_damping, 4.0),
        ({"gear": 0.25}, lambda m: m.actuator_gear, 0.25),
    ],
)
@pytest.mark.parametrize("name", ["Ant", "HalfCheetah"])
def test_factors_reach_the_model(name: str, shift: dict[str, Any], field: Any, factor: float) -> None:
    np.testing.assert_allclose(field(model_of(make(name, shift=shift))), field(model_of(make(name))) * factor)


def test_patterns_change_only_what_they_match() -> None:
    plain, shifted = model_of(make("HalfCheetah")), model_of(make("HalfCheetah", shift={"mass": {"b*": 2.0}}))
    names = [plain.body(i).name for i in range(plain.nbody)]
    ratio = shifted.body_mass[1:] / plain.body_mass[1:]
    assert [name for name, r in zip(names[1:], ratio, strict=True) if r == 2.0] == ["bthigh", "bshin", "bfoot"]
    assert set(ratio) == {1.0, 2.0}


def test_wind_and_density_reach_the_model() -> None:
    model = model_of(make("Ant", shift={"density": 1.2, "wind": [3, 0, -1]}))
    assert model.opt.density == 1.2
    np.testing.assert_array_equal(model.opt.wind, [3, 0, -1])


def test_joint_ranges_shrink_about_the_rest_position() -> None:
    plain, shifted = model_of(make("Ant")), model_of(make("Ant", shift={"joint_range": {"hip_1": 0.1, "ankle_1": 0.5}}))
    np.testing.assert_allclose(shifted.joint("hip_1").range, np.radians([-3, 3]))
    np.testing.assert_allclose(shifted.joint("ankle_1").range, np.radians([30, 50]))  # rests at the end of its range
    np.testing.assert_array_equal(shifted.joint("hip_2").range, plain.joint("hip_2").range)


def test_limbs_stay_attached() -> None:
    plain, shifted = model_of(make("HalfCheetah")), model_of(make("HalfCheetah", shift={"limb_size": {"bshin": 0.5}}))
    np.testing.assert_allclose(shifted.geom("bshin").size[:2], plain.geom("bshin").size[:2] * 0.5)
    np.testing.assert_allclose(shifted.body("bfoot").pos, plain.body("bfoot").pos * 0.5)
    np.testing.assert_array_equal(shifted.body("bshin").pos, plain.body("bshin").pos)
    assert shifted.body("bshin").mass < plain.body("bshin").mass


@pytest.mark.parametrize(("scale", "legs"), [(0.8, 0.8), ({"torso": 0.8}, 0.8), ({"head": 0.8}, 1.0)])
def test_legs_follow_the_limb_they_are_attached_to(scale: Any, legs: float) -> None:
    plain, shifted = model_of(make("HalfCheetah")), model_of(make("HalfCheetah", shift={"limb_size": scale}))
    for body in ("bthigh", "fthigh"):
        np.testing.assert_allclose(shifted.body(body).pos, plain.body(body).pos * legs)


def test_a_pattern_that_matches_no_joint_is_an_error() -> None:
    with pytest.raises(TaskError, match=r"shift\.joint_range: 'knee' matches no name. What exists: ankle_1"):
        make("Ant", shift={"joint_range": {"knee": 0.5}})
