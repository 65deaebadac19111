"""Tasks, levels and shifts by name."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from daft_rl.envs import Shift, levels, make, read_shift, task_names
from daft_rl.envs.registry import TASKS
from daft_rl.errors import TaskError
from daft_rl.imports import load_object
from tests.envs.rollouts import rollout

REFERENCE = {"Ant": "Ant-v5", "HalfCheetah": "HalfCheetah-v5"}


@pytest.mark.parametrize("name", REFERENCE)
def test_the_source_is_the_task_of_gymnasium(name: str) -> None:
    ours, theirs = make(name), gym.make(REFERENCE[name])
    np.testing.assert_array_equal(rollout(ours), rollout(theirs))
    assert ours.spec is not None
    assert theirs.spec is not None
    assert ours.spec.max_episode_steps == theirs.spec.max_episode_steps


LONG = ("Door", "Door-UR5e", "Wipe", "Wipe-shifted")  # of robosuite; Door-shifted and Wipe-UR5e stand for them


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in task_names()]
)
def test_checkers_pass(name: str) -> None:
    gymnasium_check(gym.make(f"daft_rl/{name}-v0").unwrapped, skip_render_check=True)
    gymnasium_check(
        make(name, shift={"observation_noise": 0.1, "observation_offset": 0.5, "action_delay": 2}).env.env,  # type: ignore[attr-defined]
        skip_render_check=True,
    )
    sb3_check(make(name))


@pytest.mark.parametrize("name", task_names())
def test_every_level_is_valid_and_changes_something(name: str) -> None:
    for level in levels(name):
        assert bool(read_shift(name, level).changes()) == (level != "none"), level


@pytest.mark.parametrize("name", REFERENCE)
def test_every_level_changes_the_trajectory(name: str) -> None:
    plain = rollout(make(name))
    assert np.array_equal(plain, rollout(make(name, shift="none")))
    seen = [plain]
    for level in levels(name):
        if level != "none":
            trajectory = rollout(make(name, shift=level))
            assert not any(np.array_equal(trajectory, other) for other in seen), level
            seen.append(trajectory)


def test_seeds_reproduce() -> None:
    shift = {"observation_noise": 0.1, "gravity": 0.7}
    assert np.array_equal(rollout(make("Ant", shift=shift), seed=1), rollout(make("Ant", shift=shift), seed=1))
    assert not np.array_equal(rollout(make("Ant", shift=shift), seed=1), rollout(make("Ant", shift=shift), seed=2))
    a, b = make("HalfCheetah", seed=5), make("HalfCheetah", seed=5)
    assert np.array_equal(a.action_space.sample(), b.action_space.sample())


PATHS = sorted({path for task in TASKS.values() for path in (task.entry_point, task.shift_type)})


@pytest.mark.parametrize("path", PATHS)
def test_import_paths_of_the_table_exist(path: str) -> None:
    assert callable(load_object(path))


@pytest.mark.parametrize(
    ("name", "shift", "message"),
    [
        ("Nope", None, "Unknown task 'Nope'. What exists: Ant, Ant-shifted"),
        ("ant-shifted", None, "Did you mean 'Ant-shifted'"),
        ("Ant", "gravty-0.5", "Did you mean 'gravity-0.5'"),
        ("Ant", {"nope": 1}, "shift.nope does not exist. What exists: observation_noise"),
        ("Ant", 2, "expected the name of a level or fields and values, got 2"),
        ("Ant", Shift(), "takes a MujocoShift, got a Shift"),
    ],
)
def test_errors_list_what_exists(name: str, shift: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make(name, shift=shift)
