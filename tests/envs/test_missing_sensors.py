"""Sensors that are gone: entries of the observation by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.envs import FakeImageEnv

from daft_rl.envs import make, make_vec
from daft_rl.envs.cuda.build import make_blueprints
from daft_rl.envs.names import entry_names
from daft_rl.envs.registry import read_shift
from daft_rl.envs.wrappers import MissingSensors, ObservationShift
from daft_rl.errors import TaskError
from tests.envs.mujoco_batches import assert_same, factory
from tests.envs.rollouts import rollout

FAMILIES = {
    "Ant": "torso.force*",
    "HalfCheetah": "*.velocity",
    "Door": "robot0_joint_*",
    "SafetyPointGoal": "hazards_lidar*",
    "mujoco/Hopper-v5": "rooty.*",
}


def all_names(task: str) -> tuple[str, ...]:
    return entry_names(make(task)).observation


@pytest.mark.parametrize("task", FAMILIES)
def test_the_others_stay_as_they_were(task: str) -> None:
    pattern, names = FAMILIES[task], all_names(task)
    env = make(task, shift={"missing_sensors": [pattern]})
    stem = pattern.strip("*")
    kept = [i for i, name in enumerate(names) if stem not in name]
    assert 0 < len(kept) < len(names)
    assert entry_names(env).observation == tuple(names[i] for i in kept)
    assert entry_names(env).action == entry_names(make(task)).action
    np.testing.assert_array_equal(rollout(env)[:, :-1], rollout(make(task))[:, kept])


NAMES = all_names("HalfCheetah")


@settings(deadline=None, max_examples=20)
@given(gone=st.sets(st.sampled_from(NAMES), min_size=1, max_size=len(NAMES) - 1))
def test_any_names_can_be_gone(gone: set[str]) -> None:
    env = make("HalfCheetah", shift={"missing_sensors": sorted(gone)})
    expected = tuple(name for name in NAMES if name not in gone)
    assert entry_names(env).observation == expected
    assert env.observation_space.shape == (len(expected),)
    assert env.reset(seed=0)[0].shape == (len(expected),)


def test_a_name_with_brackets_means_itself() -> None:
    env = make("Ant", shift={"missing_sensors": ["torso.force[0]"]})
    assert set(all_names("Ant")) - set(entry_names(env).observation) == {"torso.force[0]"}


def test_noise_and_offset_are_those_of_all_sensors() -> None:
    shift = {"observation_offset": 0.5, "observation_noise": 0.1}
    kept = [i for i, name in enumerate(NAMES) if not name.endswith(".velocity")]
    fewer = rollout(make("HalfCheetah", shift=shift | {"missing_sensors": ["*.velocity"]}))[:, :-1]
    np.testing.assert_array_equal(fewer, rollout(make("HalfCheetah", shift=shift))[:, kept])


@pytest.mark.filterwarnings("ignore:.*Box observation space|.*different from the unwrapped")
def test_the_environment_is_one_of_gymnasium() -> None:
    env = make("HalfCheetah", shift={"missing_sensors": ["*.velocity"]})
    check_env(env, skip_render_check=True)
    assert env.spec is not None
    assert gym.make(env.spec).observation_space == env.observation_space


def nested(*missing: list[str], around: Callable[[gym.Env], gym.Env] = lambda env: env) -> Callable[[], gym.Env]:
    def make_one() -> gym.Env:
        env: Any = factory("Ant", 20, shift={"observation_noise": 0.1})()
        for one in missing:
            env = MissingSensors(env, one)
        return around(env)

    return make_one


def test_threads_give_the_same_bits() -> None:
    assert_same(
        [factory("Ant", 20, shift={"missing_sensors": ["torso.force*"], "observation_noise": s}) for s in (0.0, 0.1)],
        50,
    )
    assert_same([nested(["torso.force*"], ["*.velocity"])] * 2, 30)


def test_threads_refuse_environments_that_lack_different_sensors() -> None:
    with pytest.raises(TaskError, match="must observe the same"):
        assert_same([nested(["hip_1.position"]), nested(["hip_1.velocity"])], 1)


def test_threads_refuse_shifts_around() -> None:
    with pytest.raises(TaskError, match="Put it inside, or use vec='dummy'"):
        assert_same([nested(["hip_1.position"], around=lambda env: ObservationShift(env, scale=2.0))], 1)


@pytest.mark.parametrize("vec", ["dummy", "workers"])
def test_batches_lack_them(vec: str) -> None:
    venv = make_vec("HalfCheetah", 2, seed=0, shift={"missing_sensors": ["*.velocity"]}, vec=vec)
    try:
        kept = sum(not name.endswith(".velocity") for name in NAMES)
        assert np.shape(venv.reset()) == (2, kept)  # type: ignore[arg-type]
    finally:
        venv.close()


@pytest.mark.parametrize(
    ("task", "missing", "message"),
    [
        ("Ant", ["knee*"], r"shift\.missing_sensors: 'knee\*' matches no name. What exists: torso\.z, "),
        ("Ant", ["*"], r"shift\.missing_sensors: \['\*'\] leaves no entry"),
        ("Ant", "torso.z", r"missing_sensors: expected a list"),
        ("Pendulum-v1", ["x"], r"shift\.missing_sensors: The entries of .* have no names. Give the environment"),
    ],
)
def test_what_cannot_be_gone_is_an_error(task: str, missing: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make(task, shift={"missing_sensors": missing})


def test_only_vectors_can_lack_sensors() -> None:
    with pytest.raises(TaskError, match="expected a vector as observation"):
        MissingSensors(FakeImageEnv(), ["x"])


def test_worlds_on_a_gpu_have_all_sensors() -> None:
    with pytest.raises(TaskError, match="vec='cuda' has all sensors"):
        make_blueprints("Ant", [read_shift("Ant", {"missing_sensors": ["torso.z"]})])  # type: ignore[list-item]


def test_worlds_refuse_a_registration_that_takes_sensors_away() -> None:
    wrapper = MissingSensors.wrapper_spec(missing=["*.velocity"])
    entry_point = "gymnasium.envs.mujoco.half_cheetah_v5:HalfCheetahEnv"
    gym.register("BlindCheetah-v0", entry_point, max_episode_steps=100, additional_wrappers=(wrapper,))
    assert make("BlindCheetah-v0").observation_space.shape == (8,)
    with pytest.raises(TaskError, match="does not apply the wrappers of a registration, here MissingSensors"):
        make_blueprints("BlindCheetah-v0", [read_shift("BlindCheetah-v0", {"observation_noise": 0.1})])  # type: ignore[list-item]
    assert make_blueprints("HalfCheetah", [read_shift("HalfCheetah", {"action_delay": 1, "observation_scale": 2.0})])  # type: ignore[list-item]
