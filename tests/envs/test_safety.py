"""Safety-Gymnasium's tasks: the package's own numbers, costs in ``info``, shifts of the physics."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env as gymnasium_check
from numpy.typing import NDArray
from stable_baselines3.common.env_checker import check_env as sb3_check

from daft_rl.envs import levels, make
from daft_rl.envs.safety.environment import SafetyEnv
from daft_rl.envs.safety.package import blueprints, load_package
from daft_rl.errors import TaskError

GOALS = ["SafetyPointGoal1-v0", "SafetyPointGoal2-v0", "SafetyCarGoal1-v0"]
OTHERS = ["SafetyPointButton1-v0", "SafetyPointPush1-v0", "SafetyCarCircle1-v0", "SafetyAntGoal1-v0"]
LONG = ("SafetyPointGoal2-v0", "SafetyPointButton1-v0", "SafetyAntGoal1-v0")  # many objects, or many joints


def drive(env: gym.Env, seed: int, steps: int) -> list[NDArray[Any]]:
    """Observations, rewards, costs and flags while driving forward with random turns, also after resets."""
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    rows = [np.append(observation, info["cost"])]
    for step in range(steps):
        action = rng.uniform(-1, 1, env.action_space.shape)
        action[0] = 1.0 if step % 50 < 35 else action[0]
        observation, reward, terminated, truncated, info = env.step(action)
        rows.append(np.concatenate([observation, [reward, info["cost"], terminated, truncated]]))
        if terminated or truncated:
            env.reset()
    return rows


def same(a: list[NDArray[Any]], b: list[NDArray[Any]]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def slow_resets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package as it was installed: each reset parses every file and decodes six images of the sky."""
    load_package()
    for module in ("world", "bases.base_task"):
        monkeypatch.setattr(importlib.import_module(f"safety_gymnasium.{module}"), "yaml", yaml)
    underlying = importlib.import_module("safety_gymnasium.bases.underlying")
    monkeypatch.setattr(underlying, "World", importlib.import_module("safety_gymnasium.world").World)


@pytest.mark.parametrize(
    "id", [pytest.param(id, marks=pytest.mark.slow) if id in LONG else id for id in GOALS + OTHERS]
)
def test_fast_steps_and_resets_equal_those_of_the_package(id: str, slow_resets: None) -> None:
    slow = SafetyEnv(blueprints()[id], fast=False)
    expected = [drive(slow, seed, steps=100) for seed in range(2 if id in GOALS else 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("safety_gymnasium.world"), "yaml", _cached())
        fast = SafetyEnv(blueprints()[id], fast=True)
        for seed, rows in enumerate(expected):
            assert same(rows, drive(fast, seed, steps=100)), seed


def _cached() -> Any:
    from daft_rl.envs.safety.package import _CachedYaml

    return _CachedYaml("yaml")


@pytest.mark.parametrize("id", GOALS[:1])
def test_whole_episodes_equal_those_of_the_package(id: str) -> None:
    """The robot reaches goals and crosses hazards."""
    slow, fast = SafetyEnv(blueprints()[id], fast=False), SafetyEnv(blueprints()[id])
    for seed in range(3):
        rows = chase(slow, seed)
        assert same(rows, chase(fast, seed))
    assert sum(row[-3] for row in rows[1:]) > 0, "some cost"


def chase(env: gym.Env, seed: int = 0) -> list[NDArray[Any]]:
    """An episode of driving to the goal."""
    parts = env.unwrapped.task.obs_info.obs_space_dict  # type: ignore[attr-defined]
    names = list(parts)
    start = sum(int(np.prod(parts[name].shape)) for name in names[: names.index("goal_lidar")])
    observation, _ = env.reset(seed=seed)
    rows, over = [observation], False
    while not over:
        angle = (np.argmax(observation[start : start + 16]) + 0.5) / 16 * 2 * np.pi
        turn = np.clip(2 * ((angle + np.pi) % (2 * np.pi) - np.pi), -1, 1)
        observation, reward, terminated, truncated, info = env.step(np.array([1.0, turn]))
        rows.append(np.concatenate([observation, [reward, info["cost"], terminated, truncated]]))
        over = terminated or truncated
    assert info["episode_cost"] == sum(row[-3] for row in rows[1:])
    return rows


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["SafetyPointGoal", "SafetyCarGoal", "SafetyPointPush1-v0"])
def test_checkers_pass(name: str) -> None:
    gymnasium_check(make(name).unwrapped, skip_render_check=True)
    sb3_check(make(name))


def test_seeds_reproduce() -> None:
    a, b = make("SafetyPointGoal", seed=5), make("SafetyPointGoal", seed=5)
    drive(a, seed=9, steps=30)  # earlier steps have no influence
    assert same(drive(a, seed=1, steps=60), drive(b, seed=1, steps=60))
    first, second = a.reset()[0], a.reset()[0]
    assert not np.array_equal(first, second)


def test_unseeded_environments_differ_and_leave_numpys_generator_alone() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    a, b = make("SafetyPointGoal"), make("SafetyPointGoal")
    assert not np.array_equal(a.reset()[0], b.reset()[0])
    assert np.array_equal(np.random.get_state()[1], before)  # type: ignore[index]


def test_truncation_after_a_thousand_steps() -> None:
    env = make("SafetyPointGoal", seed=0)
    for _ in range(999):
        assert env.step(np.zeros(2))[2:4] == (False, False)
    assert env.step(np.zeros(2))[2:4] == (False, True)


def count(model: mujoco.MjModel, prefix: str) -> int:
    return sum(model.body(i).name.startswith(prefix) for i in range(model.nbody))


SHIFTS: dict[str, tuple[dict[str, Any], float, Callable[[mujoco.MjModel], Any]]] = {
    "mass": ({"mass": 2.0}, 2, lambda model: model.body("agent").mass[0]),
    "damping": ({"damping": 3.0}, 3, lambda model: model.dof_damping.copy()),
    "gear": ({"gear": 0.5}, 0.5, lambda model: model.actuator_gear[:, 0].copy()),
    "floor_friction": ({"floor_friction": 4.0}, 4, lambda model: model.geom("floor").friction.copy()),
    "hazards": ({"hazards": 12}, 12 / 8, lambda model: count(model, "hazard")),
    "hazard_size": ({"hazard_size": 2.0}, 2, lambda model: model.geom("hazard0").size[0]),
    "level": ({"level": 2}, 10, lambda model: count(model, "vase")),
}


@pytest.mark.parametrize("field", SHIFTS)
@pytest.mark.parametrize("name", ["SafetyPointGoal", "SafetyCarGoal"])
def test_shifts_change_the_physics_after_every_reset(name: str, field: str) -> None:
    shift, factor, read = SHIFTS[field]
    plain, shifted = make(name), make(name, shift=shift)
    for seed in (3, 4):
        if field == "hazard_size":  # changes costs only where hazards are crossed
            equal = same(chase(plain), chase(shifted))
        else:
            equal = same(drive(plain, seed, 150), drive(shifted, seed, 150))
        assert not equal or (name, field) == ("SafetyPointGoal", "floor_friction"), "Point does not touch the floor"
        models: list[mujoco.MjModel] = [env.unwrapped.model for env in (plain, shifted)]  # type: ignore[attr-defined]
        np.testing.assert_allclose(read(models[1]), factor * read(models[0]))
    assert plain.observation_space == shifted.observation_space


def test_observations_and_actions_are_shifted() -> None:
    noisy = make("SafetyPointGoal", shift={"observation_noise": 0.1, "action_delay": 2})
    assert same(drive(noisy, 1, 10), drive(noisy, 1, 10))
    assert not same(drive(noisy, 1, 10), drive(make("SafetyPointGoal"), 1, 10))


@pytest.mark.parametrize(
    ("name", "shift", "message"),
    [
        ("SafetyPointGoal", {"hazard_size": 3.0}, "At most 2.9 is possible"),
        ("SafetyPointGoal", {"level": 7}, "SafetyPointGoal7-v0"),
        ("SafetyPointGoal", {"mass": {"wheel": 2.0}}, "'wheel' matches no name. What exists: agent"),
        ("SafetyHalfCheetahVelocity-v1", {"level": 2}, "has no levels"),
        ("SafetyPointCircle0-v0", {"hazards": 3}, "has no hazards"),
        ("SafetyPointNope1-v0", None, "Unknown Safety-Gymnasium task"),
        ("SafetyPointGoal1Vision-v0", None, "Unknown Safety-Gymnasium task"),
        ("SafetyPointRace1-v0", None, "Unknown Safety-Gymnasium task"),
    ],
)
def test_impossible_tasks_and_shifts_are_errors(name: str, shift: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make(name, shift=shift).reset()


def test_a_fresh_process_imports_the_package_silently_and_registers_nothing() -> None:
    code = (
        "from daft_rl.envs import make; import gymnasium as gym; before = set(gym.registry);"
        "make('SafetyPointGoal', seed=0).step([0.0, 0.0]); assert set(gym.registry) == before"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_level_of_car_changes_the_trajectory() -> None:
    plain = make("SafetyCarGoal")
    driven, chased = drive(plain, 3, 150), chase(plain)
    for level in levels("SafetyCarGoal"):
        if level != "none":
            shifted = make("SafetyCarGoal", shift=level)
            assert not same(driven, drive(shifted, 3, 150)) or not same(chased, chase(shifted)), level


def test_friction_of_the_floor_can_rise_and_fall() -> None:
    trajectories = [drive(make("SafetyCarGoal", shift={"floor_friction": f}), 3, 150) for f in (0.2, 0.5, 1.0, 5.0)]
    assert not any(same(a, b) for i, a in enumerate(trajectories) for b in trajectories[:i])


@pytest.mark.parametrize("mass", [2.0, {"*": 2.0}])
def test_masses_of_unnamed_bodies_are_scaled(mass: Any) -> None:
    env = make("SafetyRacecarGoal1-v0", shift={"mass": mass})
    env.reset(seed=0)
    plain = make("SafetyRacecarGoal1-v0")
    plain.reset(seed=0)
    models: list[mujoco.MjModel] = [one.unwrapped.model for one in (plain, env)]  # type: ignore[attr-defined]
    assert models[1].body("agent").subtreemass == pytest.approx(2 * models[0].body("agent").subtreemass)


def test_only_images_are_rendered() -> None:
    with pytest.raises(TaskError, match="take rgb_array or None, got 'human'"):
        make("SafetyPointGoal", render_mode="human")
