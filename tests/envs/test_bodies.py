"""Other bodies are what their descriptions say, and step and render as all tasks do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from daft_rl.envs import make, make_vec
from daft_rl.envs.names import entry_names
from daft_rl.errors import TaskError


def test_a_fifth_leg_is_like_the_others_but_for_its_ranges() -> None:
    core: Any = make("Ant-fivelegs").unwrapped
    model = core.model
    assert core.observation_space.shape == (105 + 4 + 3 * 6,)
    assert entry_names(core).action[-2:] == ("hip_5", "ankle_5")
    assert model.actuator_gear[:, 0].tolist() == [150.0] * 10
    np.testing.assert_allclose(np.rad2deg(model.joint("hip_5").range), [-10, 10])
    np.testing.assert_allclose(np.rad2deg(model.joint("ankle_5").range), [30, 70])
    for name, length in (("aux_5_geom", 0.14), ("fifth_leg_geom", 0.14), ("fifth_ankle_geom", 0.28)):
        np.testing.assert_allclose(model.geom(name).size[:2], [0.08, length])
    np.testing.assert_array_equal(model.joint("hip_5").damping, model.joint("hip_1").damping)


def test_a_third_leg_stands_beside_the_back_leg_and_the_mass_stays() -> None:
    model = make("HalfCheetah-threelegs").unwrapped.model  # type: ignore[attr-defined]
    assert np.isclose(model.body_mass.sum(), 14.0)
    assert [model.body(name).pos[1] for name in ("bthigh", "bthigh2")] == [-0.06, 0.06]
    assert model.actuator_gear[:, 0].tolist() == [120.0, 90.0, 60.0, 120.0, 60.0, 30.0, 120.0, 90.0, 60.0]
    for link in ("bthigh", "bshin", "bfoot"):
        one, other = model.joint(link), model.joint(f"{link}2")
        for what in ("damping", "stiffness", "range", "armature"):
            np.testing.assert_array_equal(getattr(one, what), getattr(other, what))


@pytest.mark.parametrize(
    ("task", "level", "gone"), [("Ant", "leg-less", "hip_3"), ("HalfCheetah", "foot-less", "ffoot")]
)
def test_what_is_cut_off_is_neither_sensed_nor_moved(task: str, level: str, gone: str) -> None:
    whole, cut = entry_names(make(task)), entry_names(make(task, shift=level))
    assert gone in whole.action
    assert gone not in cut.action
    assert not any(name.startswith(f"{gone}.") for name in cut.observation)
    assert set(cut.observation) < set(whole.observation)


def test_a_body_that_does_not_exist_cannot_be_cut_off() -> None:
    with pytest.raises(TaskError, match=r"shift.without: 'leg_9' matches no body.*back_leg"):
        make("Ant", shift={"without": ["leg_9"]})


@pytest.mark.parametrize("name", ["Ant-fivelegs", "HalfCheetah-threelegs"])
def test_threads_give_the_same_bits(name: str) -> None:
    shift = {"friction": 0.5, "observation_noise": 0.1}
    batches: list[Any] = [make_vec(name, num_envs=2, seed=0, shift=shift, vec=vec) for vec in ("threads", "dummy")]
    np.testing.assert_array_equal(*[batch.reset() for batch in batches])
    generator = np.random.default_rng(0)
    for _ in range(20):
        actions = generator.uniform(-1, 1, (2, *batches[0].action_space.shape)).astype(np.float32)  # type: ignore[misc]
        one, other = (batch.step(actions) for batch in batches)
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    for batch in batches:
        batch.close()
