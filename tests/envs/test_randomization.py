"""Domain randomization: numbers of a shift that differ between the environments of a batch."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from daft_rl.envs import make, make_vec, read_shift
from daft_rl.envs.domain import read_domains
from daft_rl.envs.randomization import BANK, ShiftRange, draw_shifts
from daft_rl.errors import TaskError

RANGE = {"gravity": {"low": 0.5, "high": 2.0}}


def test_a_number_is_drawn_uniformly_from_its_range() -> None:
    read = read_shift("Ant", RANGE)
    drawn: list[Any] = draw_shifts(read, 300)
    gravities = [shift.gravity for shift in drawn]
    assert 0.5 <= min(gravities) < 0.55
    assert 1.95 < max(gravities) <= 2.0
    np.testing.assert_allclose(np.mean(gravities), 1.25, atol=0.1)
    assert draw_shifts(read, 5) == drawn[:5]
    assert draw_shifts(read, 5, seed=1) != drawn[:5]


@pytest.mark.parametrize(
    ("task", "shift", "field", "entry"),
    [
        ("Ant", {"mass": {"torso": {"low": 0.5, "high": 2.0}, "*leg": 1.0}}, "mass", lambda value: value["torso"]),
        ("Ant", {"density": 1.2, "wind": [{"low": -4.0, "high": 4.0}, 0, 0]}, "wind", lambda value: value[0]),
        ("Ant", {"observation_scale": {"low": 1, "high": 2}}, "observation_scale", lambda value: value),
        ("Door", {"hinge_damping": {"low": 1.0, "high": 10.0}}, "hinge_damping", lambda value: value),
        ("SafetyPointGoal", {"gear": {"x": {"low": 1.0, "high": 4.0}}}, "gear", lambda value: value["x"]),
        ("CartPole-v1", {"observation_noise": {"low": 0.0, "high": 1.0}}, "observation_noise", lambda value: value),
    ],
)
def test_every_number_of_every_simulator_may_be_a_range(task: str, shift: Any, field: str, entry: Any) -> None:
    read = read_shift(task, shift)
    values = [entry(getattr(drawn, field)) for drawn in draw_shifts(read, 8)]
    assert len(set(values)) == 8
    assert json.loads(json.dumps(read.changes()))[field] == shift[field]
    assert read_shift(task, read.changes()) == read


def test_whole_numbers_stay_whole() -> None:
    read = read_shift("Wipe", {"markers": {"low": 50, "high": 52}, "action_delay": {"low": 0, "high": 1}})
    drawn: list[Any] = draw_shifts(read, 40)
    assert {shift.markers for shift in drawn} == {50, 51, 52}
    assert {shift.action_delay for shift in drawn} == {0, 1}


def test_keywords_of_environments_are_no_ranges() -> None:
    keywords = {"kwargs": {"window": {"low": 1, "high": 2}}}
    assert read_shift("CartPole-v1", keywords).changes() == keywords


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        ({"gravity": {"low": 2.0, "high": 0.5}}, r"shift\.gravity: expected low <= high, got low 2\.0 and high 0\.5"),
        ({"mass": {"torso": {"low": 2.0, "high": 0.5}}}, r"shift\.mass\.torso: expected low <= high"),
        ({"mass": {"low": 0.0, "high": 0.5}}, r"shift\.mass: expected a number above 0"),
        ({"gravity": {"low": 1.0}}, r"shift\.gravity: expected"),
        ({"weight": {"low": 1.0, "high": 2.0}}, r"shift\.weight does not exist"),
    ],
)
def test_impossible_ranges_are_refused(shift: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        read_shift("Ant", shift)


@pytest.mark.parametrize("vec", ["dummy", "threads"])
def test_environments_of_a_batch_have_shifts_of_their_own(vec: str) -> None:
    venv = make_vec("HalfCheetah", num_envs=3, shift=RANGE, vec=vec)
    gravities = [env.model.opt.gravity[2] for env in venv.get_attr("unwrapped")]
    drawn: list[Any] = draw_shifts(read_shift("HalfCheetah", RANGE), 3)
    np.testing.assert_allclose(gravities, [-9.81 * shift.gravity for shift in drawn])
    venv.close()
    one: Any = make("HalfCheetah", RANGE).unwrapped
    assert one.model.opt.gravity[2] == gravities[0]


def test_a_domain_reports_its_range() -> None:
    domains = read_domains({"name": "HalfCheetah", "shift": RANGE})
    assert isinstance(domains["target"].shift, ShiftRange)
    assert domains["target"].changes == RANGE
    keywords = {"name": "Hopper-v5", "shift": {"observation_noise": {"low": 0, "high": 1}}, "kwargs": {"frame_skip": 4}}
    target: Any = read_domains(keywords)["target"].shift
    assert target.low.kwargs == target.high.kwargs == {"frame_skip": 4}


def test_a_batch_has_at_most_64_shifts() -> None:
    venv = make_vec("HalfCheetah", num_envs=BANK + 2, shift=RANGE, vec="dummy")
    gravities = [env.model.opt.gravity[2] for env in venv.get_attr("unwrapped")]
    assert len(set(gravities)) == BANK
    assert gravities[BANK:] == gravities[:2]
    venv.close()
