"""robosuite's tasks: what reproduces, what ends an episode, what a shift really changes, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_checker import check_env as sb3_check

from daft_rl.envs.robosuite.tasks import RobosuiteEnv, RobosuiteShift, make_robosuite
from daft_rl.errors import TaskError

pytestmark = pytest.mark.skipif(find_spec("robosuite") is None, reason="robosuite is not installed")
TASKS = ["Door", "Wipe"]
HINGE_ANGLE = 6  # of Door's observation: after the positions of door and handle


@pytest.fixture(scope="module")
def plain() -> Iterator[dict[str, RobosuiteEnv]]:
    """One unshifted instance of each task, shared: a reset with a seed must forget everything anyway."""
    envs = {base: RobosuiteEnv(base, RobosuiteShift()) for base in TASKS}
    yield envs
    for env in envs.values():
        env.close()


def rollout(env: gym.Env, seed: int = 0, steps: int = 15) -> np.ndarray:
    """Observations and rewards of random actions from a seed, until the episode ends."""
    rng = np.random.default_rng(seed)
    rows = [np.append(env.reset(seed=seed)[0], 0.0)]
    for _ in range(steps):
        action = rng.uniform(-1.0, 1.0, env.action_space.shape).astype(np.float32)
        observation, reward, terminated, truncated, _ = env.step(action)
        rows.append(np.append(observation, reward))
        if terminated or truncated:
            break
    return np.array(rows)


def steer(base: str, observation: np.ndarray, step: int, rng: np.random.Generator) -> np.ndarray:
    """Actions that get somewhere: the wiper down onto the dirt, the hand against the door."""
    if base == "Door":
        return np.add(rng.uniform(-1.0, 1.0, 7), [0.0, -0.3, 0.0, 0.0, 0.0, 0.0, 0.0])
    to_dirt, turn = observation[5:8] * 20.0, [np.sin(step / 3.0), np.cos(step / 5.0)]
    return np.clip([*(to_dirt[:2] + turn), to_dirt[2] if step < 12 else -0.15, 0.0, 0.0, 0.0], -1.0, 1.0)


@pytest.mark.parametrize(
    ("base", "shift", "seeds"),
    [
        ("Door", {}, [0]),
        ("Wipe", {}, [0, 1]),
        ("Door", {"latch": False, "robot": "Sawyer", "arm_mass": 1.5}, [0]),
        ("Wipe", {"two_clusters": True, "markers": 30, "robot": "IIWA", "controller_gain": 0.5}, [0]),
    ],
)
def test_fast_steps_are_robosuites_to_the_last_bit(base: str, shift: dict[str, Any], seeds: list[int]) -> None:
    fast = RobosuiteEnv(base, RobosuiteShift(**shift))
    slow = RobosuiteEnv(base, RobosuiteShift(**shift), fast=False)
    touched, wiped = 0, 0.0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        observation, _ = fast.reset(seed=seed)
        np.testing.assert_array_equal(observation, slow.reset(seed=seed)[0])
        for step in range(120):
            action = steer(base, observation, step, rng)
            (observation, *ours), (_, *theirs) = fast.step(action), slow.step(action)
            assert fast._fast is not None
            expected = slow._read(slow.sim_env._get_observations())
            np.testing.assert_array_equal(fast._fast.observation, expected)  # float64
            assert ours == theirs
            touched += bool(fast.data.ncon)
            if ours[1]:
                break
        wiped = max(wiped, ours[-1].get("wiped", 0.0))
    assert touched > 5
    assert wiped > 0.05 or base == "Door" or shift
    fast.close()
    slow.close()


@pytest.mark.parametrize("base", TASKS)
def test_source_is_robosuites_task(plain: dict[str, RobosuiteEnv], base: str) -> None:
    from robosuite import make
    from robosuite.controllers import load_composite_controller_config

    theirs = make(
        base, robots="Panda", controller_configs=load_composite_controller_config(controller="BASIC", robot="Panda"),
        reward_shaping=True, control_freq=20, horizon=500, hard_reset=False, use_camera_obs=False,
        has_offscreen_renderer=False, renderer="mujoco", seed=0,
    )  # fmt: skip
    theirs.rng.bit_generator.state = np.random.default_rng(5).bit_generator.state
    expected = theirs.reset()
    observation, _ = plain[base].reset(seed=5)
    for action in np.random.default_rng(0).uniform(-0.5, 0.5, (10, theirs.action_dim)):
        flat = np.concatenate((expected["object-state"], expected["robot0_proprio-state"])).astype(np.float32)
        np.testing.assert_array_equal(observation, flat)
        observation, reward, *_ = plain[base].step(action)
        expected, their_reward, *_ = theirs.step(action)
        assert reward == their_reward
    theirs.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("base", TASKS)
def test_checkers_pass(plain: dict[str, RobosuiteEnv], base: str) -> None:
    gymnasium_check(plain[base], skip_render_check=True)
    sb3_check(plain[base])
    assert plain[base].observation_space.shape == ({"Door": 64, "Wipe": 55}[base],)
    assert plain[base].action_space == gym.spaces.Box(-1.0, 1.0, ({"Door": 7, "Wipe": 6}[base],), np.float32)


@pytest.mark.parametrize("base", TASKS)
def test_seeds_reproduce_and_leave_numpy_alone(plain: dict[str, RobosuiteEnv], base: str) -> None:
    env = plain[base]
    np.random.seed(1)
    state = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    first, other = rollout(env, seed=3), rollout(env, seed=4)
    fresh = RobosuiteEnv(base, RobosuiteShift())
    unseeded = [fresh.reset()[0] for _ in range(3)]
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # type: ignore[index, arg-type]

    np.random.seed(2)
    np.testing.assert_array_equal(first, rollout(env, seed=3))
    np.testing.assert_array_equal(first, rollout(fresh, seed=3))
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(unseeded[0], unseeded[1])
    assert not np.array_equal(unseeded[1], unseeded[2])
    following = []
    for instance in (env, fresh):  # what comes after a seeded episode follows from the seed too
        instance.reset(seed=5)
        following.append(instance.reset()[0])
    np.testing.assert_array_equal(*following)
    fresh.close()


def test_every_reset_draws_new_dirt(plain: dict[str, RobosuiteEnv]) -> None:
    env = plain["Wipe"]
    marker = env.model.body(env.sim_env.model.mujoco_arena.markers[0].root_body).id
    places = []
    for _ in range(3):
        env.reset()
        places.append(env.data.xpos[marker].copy())
    assert len(np.unique(places, axis=0)) == 3


def test_end_of_time_is_a_truncation(plain: dict[str, RobosuiteEnv]) -> None:
    env = TimeLimit(plain["Door"], 500)
    env.reset(seed=0)
    ends = [env.step(np.zeros(7))[2:4] for _ in range(500)]
    assert not any(terminated for terminated, _ in ends)
    assert [truncated for _, truncated in ends] == [False] * 499 + [True]


def test_wipe_terminates_near_a_joint_limit_and_says_what_was_wiped(plain: dict[str, RobosuiteEnv]) -> None:
    env = plain["Wipe"]
    env.reset(seed=0)
    _, _, terminated, truncated, info = env.step(np.zeros(6))
    assert (terminated, truncated, info) == (False, False, {"is_success": False, "wiped": 0.0})
    env.data.qpos[3] = env.model.jnt_range[3, 1]
    assert env.step(np.zeros(6))[2:4] == (True, False)
    env.reset(seed=0)
    env.sim_env.wiped_markers = list(env.sim_env.model.mujoco_arena.markers)
    assert env.step(np.zeros(6))[2:] == (True, False, {"is_success": True, "wiped": 1.0})


def test_open_door_is_a_success(plain: dict[str, RobosuiteEnv]) -> None:
    env = plain["Door"]
    assert env.reset(seed=0)[1] == {"is_success": False}
    env.data.joint("Door_hinge").qpos[:] = 0.39
    _, reward, terminated, _, info = env.step(np.zeros(7))
    assert (reward, terminated, info) == (1.0, False, {"is_success": True})


def push(env: RobosuiteEnv) -> np.ndarray:
    """Random actions while the door, its handle turned, swings open; while the wiper is pressed to the table."""
    observation, _ = env.reset(seed=0)
    if env.base == "Door":
        env.data.joint("Door_hinge").qpos[:], env.data.joint("Door_hinge").qvel[:] = 0.1, 1.0
    rng, rows = np.random.default_rng(0), [observation]
    for step in range(15 if env.base == "Door" else 40):
        rows.append(env.step(steer(env.base, rows[-1], step, rng))[0])
    return np.array(rows)


def gain(env: RobosuiteEnv) -> np.ndarray:
    return env.sim_env.robots[0].part_controllers["right"].kp


def damping_gain(env: RobosuiteEnv) -> np.ndarray:
    return env.sim_env.robots[0].part_controllers["right"].kd


SHIFTS: list[tuple[str, dict[str, Any], Callable[[RobosuiteEnv], Any], Callable[[Any], Any]]] = [
    ("Door", {"controller_gain": 0.5}, gain, lambda x: 0.5 * x),
    ("Wipe", {"controller_gain": 0.5}, gain, lambda x: 0.5 * x),
    ("Door", {"damping_ratio": 0.3}, damping_gain, lambda x: 0.3 * x),
    ("Door", {"arm_mass": 1.5}, lambda e: e.model.body("robot0_link5").mass, lambda x: 1.5 * x),
    ("Wipe", {"arm_damping": 20.0}, lambda e: e.model.dof_damping[:7], lambda x: 20 * x),
    ("Door", {"arm_friction": 9.0}, lambda e: e.model.dof_frictionloss[:7], lambda x: 9 * x),
    ("Door", {"robot": "Sawyer"}, lambda e: e.model.njnt, lambda x: x),
    ("Wipe", {"robot": "IIWA"}, lambda e: e.model.njnt, lambda x: x),
    ("Wipe", {"robot": "Kinova3"}, lambda e: e.model.njnt, lambda x: x),
    ("Door", {"hinge_damping": 10.0}, lambda e: e.model.joint("Door_hinge").damping, lambda x: 10 * x),
    ("Door", {"hinge_friction": 1.0}, lambda e: e.model.joint("Door_hinge").frictionloss, lambda x: x + 1.0),
    ("Door", {"door_mass": 4.0}, lambda e: e.model.body("Door_door").inertia, lambda x: 4 * x),
    ("Door", {"latch": False}, lambda e: e.model.njnt, lambda x: x - 1),
    (
        "Door",
        {"door_offset": [0.01, 0.05]},
        lambda e: e.data.body("Door_main").xpos,
        lambda x: np.add(x, [0.01, 0.05, 0]),
    ),
    ("Wipe", {"table_friction": 10.0}, lambda e: e.model.geom("table_collision").friction, lambda x: 10 * x),
    ("Wipe", {"table_height": 0.05}, lambda e: e.model.body("table").pos, lambda x: np.add(x, [0, 0, 0.05])),
    ("Wipe", {"markers": 30}, lambda e: e.model.nbody, lambda x: x - 70),
    ("Wipe", {"line_width": 2.0}, lambda e: e.sim_env.line_width, lambda x: 2 * x),
    ("Wipe", {"two_clusters": True}, lambda e: e.sim_env.two_clusters, lambda _: True),
]


@pytest.mark.parametrize(
    ("base", "shift", "field", "expected"), SHIFTS, ids=lambda x: str(x) if isinstance(x, dict | str) else ""
)
def test_shifts_reach_model_and_trajectory(
    plain: dict[str, RobosuiteEnv], base: str, shift: dict[str, Any], field: Any, expected: Any
) -> None:
    env = RobosuiteEnv(base, RobosuiteShift(**shift))
    assert (env.observation_space, env.action_space) == (plain[base].observation_space, plain[base].action_space)
    plain[base].reset(seed=0)
    for _ in range(3):  # survives resets, and does not grow with them
        env.reset(seed=0)
        np.testing.assert_allclose(field(env), expected(field(plain[base])))
    shifted = push(env)
    assert np.abs(shifted - push(plain[base])).max() > 1e-4
    np.testing.assert_array_equal(shifted, push(env))
    env.close()


def test_door_without_latch_keeps_the_place_of_its_handle() -> None:
    env = RobosuiteEnv("Door", RobosuiteShift(latch=False))
    observation = env.reset(seed=0)[0]
    observations = env.sim_env._get_observations()
    np.testing.assert_array_equal(observation[13], 0.0)
    np.testing.assert_array_equal(observation[:13], observations["object-state"].astype(np.float32))
    np.testing.assert_array_equal(observation[14:], observations["robot0_proprio-state"].astype(np.float32))
    env.data.joint("Door_hinge").qpos[:] = 0.05
    assert env.step(np.zeros(7))[0][HINGE_ANGLE] == pytest.approx(env.data.joint("Door_hinge").qpos[0], rel=1e-6)
    env.close()


def test_interface_shifts_and_level_of_noise(plain: dict[str, RobosuiteEnv]) -> None:
    late = make_robosuite("Door", RobosuiteShift(action_delay=2, observation_noise=0.1, observation_offset=0.5))
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 7)).astype(np.float32)
    plain["Door"].reset(seed=0)
    expected = [plain["Door"].step(action)[0] for action in [*np.zeros((2, 7)), *actions[:-2]]]
    late.reset(seed=0)
    difference = np.array([late.step(action)[0] for action in actions]) - expected
    assert difference.std(axis=0).mean() == pytest.approx(0.1, rel=0.15)
    assert 0.2 < difference.mean(axis=0).std() < 1.0
    again = [late.reset(seed=seed)[0] for seed in (6, 6)]
    np.testing.assert_array_equal(*again)
    late.close()


@pytest.mark.parametrize(
    ("base", "shift", "message"),
    [
        ("Wipe", {"hinge_damping": 2.0, "latch": False}, "shift.hinge_damping, shift.latch: not of task 'Wipe'"),
        ("Wipe", {"door_offset": [0, 0.1]}, "What can be shifted there: observation_noise.*table_friction"),
        ("Door", {"table_friction": 2.0}, "What can be shifted there: .*hinge_damping"),
        ("Wipe", {"robot": "Sawyer"}, "What can: Panda, IIWA"),
        ("Door", {"robot": "Baxter"}, "unknown robot 'Baxter'. What exists: IIWA"),
        ("Door", {"controller_gain": 0}, "must be above 0"),
        ("Door", {"hinge_friction": -1}, "at least 0"),
        ("Door", {"arm_mass": float("nan")}, "finite number"),
        ("Door", {"latch": 1}, "true or false"),
        ("Door", {"door_offset": 0.1}, "expected x, y"),
        ("Wipe", {"markers": 1.5}, "whole number"),
        ("Wipe", {"line_width": 9.0}, "at most 5"),
        ("Wipe", {"table_height": -0.5}, "at most 0.1 metres"),
        ("Drawer", {}, "What exists: Door, Wipe"),
    ],
)
def test_mistakes_are_told(base: str, shift: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make_robosuite(base, RobosuiteShift(**shift))


def test_no_window(plain: dict[str, RobosuiteEnv]) -> None:
    with pytest.raises(TaskError, match="rgb_array"):
        make_robosuite("Door", RobosuiteShift(), render_mode="human")
    assert plain["Door"].render() is None


def test_changes_rebuild_the_shift() -> None:
    shift = RobosuiteShift(door_offset=[0.0, 0.1], hinge_friction=1.0, robot="Sawyer")  # type: ignore[arg-type]
    assert RobosuiteShift.from_dict(shift.changes()) == shift
    assert RobosuiteShift().changes() == {}


SILENT = """
import os, sys
from daft_rl.envs.robosuite.tasks import RobosuiteShift, make_robosuite
assert not any(name.split(".")[0] == "robosuite" for name in sys.modules)
env = make_robosuite("Wipe", RobosuiteShift())
env.reset(seed=0)
env.unwrapped.data.qpos[3] = 0.0  # robosuite warns of joint limits
assert env.step(env.action_space.sample())[2]
env.close()
assert os.environ.get("MUJOCO_GL") == "off"
"""


def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "off")
    done = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
