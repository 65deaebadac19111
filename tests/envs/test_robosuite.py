"""robosuite's tasks: seeds reproduce, episodes end as in robosuite, fast steps have the same bits."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray
from stable_baselines3.common.env_checker import check_env as sb3_check

from daft_rl.envs.robosuite import RobosuiteShift
from daft_rl.envs.robosuite.environment import RobosuiteEnv, make_robosuite
from daft_rl.errors import TaskError

pytestmark = pytest.mark.skipif(find_spec("robosuite") is None, reason="robosuite is not installed")
TASKS = ["Door", "Wipe"]


def rollout(env: gym.Env, seed: int = 0, steps: int = 15) -> NDArray[Any]:
    """Observations and rewards of random actions from a seed, until the episode ends."""
    rng = np.random.default_rng(seed)
    rows = [np.append(env.reset(seed=seed)[0], 0.0)]
    for _ in range(steps):
        action = rng.uniform(-1.0, 1.0, env.action_space.shape).astype(np.float32)
        observation, reward, terminated, truncated, _ = env.step(action)
        rows.append(np.append(observation, float(reward)))
        if terminated or truncated:
            break
    return np.array(rows)


def steer(base: str, observation: NDArray[Any], step: int, rng: np.random.Generator) -> NDArray[Any]:
    """Actions that touch something: the wiper moves down onto the dirt, the hand against the door."""
    if base == "Door":
        return np.add(rng.uniform(-1.0, 1.0, 7), [0.0, -0.3, 0.0, 0.0, 0.0, 0.0, 0.0])
    to_dirt, turn = observation[5:8] * 20.0, [np.sin(step / 3.0), np.cos(step / 5.0)]
    return np.clip([*(to_dirt[:2] + turn), to_dirt[2] if step < 12 else -0.15, 0.0, 0.0, 0.0], -1.0, 1.0)


@pytest.mark.parametrize(
    ("base", "shift", "steps"),
    [
        ("Door", {}, 120),
        pytest.param("Wipe", {}, 100, marks=pytest.mark.slow),
        pytest.param("Door", {"latch": False, "robot": "Sawyer", "arm_mass": 1.5}, 120, marks=pytest.mark.slow),
        ("Wipe", {"two_clusters": True, "markers": 30, "robot": "IIWA", "controller_gain": 0.5}, 120),
        ("Door", {"robot": "UR5e"}, 60),
        pytest.param("Wipe", {"robot": "UR5e"}, 120, marks=pytest.mark.slow),
    ],
)
def test_fast_steps_equal_those_of_robosuite(base: str, shift: dict[str, Any], steps: int) -> None:
    fast = RobosuiteEnv(base, RobosuiteShift(**shift))
    slow = RobosuiteEnv(base, RobosuiteShift(**shift), fast=False)
    touched, rng = 0, np.random.default_rng(0)
    observation, _ = fast.reset(seed=0)
    np.testing.assert_array_equal(observation, slow.reset(seed=0)[0])
    for step in range(steps):
        action = steer(base, observation, step, rng)
        (observation, *ours), (_, *theirs) = fast.step(action), slow.step(action)
        info: dict[str, Any] = fast._info()
        assert fast._fast is not None
        expected = slow._read(slow.sim_env._get_observations())
        np.testing.assert_array_equal(fast._fast.observation, expected)  # float64
        assert ours == theirs
        touched += bool(fast.data.ncon)
        if ours[1]:
            break
    assert touched > 5
    assert info.get("wiped", 0.0) > 0.05 or base == "Door" or shift
    fast.close()
    slow.close()


@pytest.mark.parametrize("base", TASKS)
def test_the_source_is_the_task_of_robosuite(plain: dict[str, RobosuiteEnv], base: str) -> None:
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
    following: list[Any] = []
    for instance in (env, fresh):  # the next episodes follow from the seed too
        instance.reset(seed=5)
        following.append(instance.reset()[0])
    np.testing.assert_array_equal(following[0], following[1])
    fresh.close()


def test_every_reset_draws_new_dirt(plain: dict[str, RobosuiteEnv]) -> None:
    env = plain["Wipe"]
    marker = env.model.body(env.sim_env.model.mujoco_arena.markers[0].root_body).id
    places = []
    for _ in range(3):
        env.reset()
        places.append(env.data.xpos[marker].copy())
    assert len(np.unique(places, axis=0)) == 3


def test_the_time_limit_truncates(plain: dict[str, RobosuiteEnv]) -> None:
    env = TimeLimit(plain["Door"], 500)
    env.reset(seed=0)
    ends = [env.step(np.zeros(7))[2:4] for _ in range(500)]
    assert not any(terminated for terminated, _ in ends)
    assert [truncated for _, truncated in ends] == [False] * 499 + [True]


def test_wipe_terminates_near_a_joint_limit_and_reports_what_was_wiped(plain: dict[str, RobosuiteEnv]) -> None:
    env = plain["Wipe"]
    env.reset(seed=0)
    _, _, terminated, truncated, info = env.step(np.zeros(6))
    assert (terminated, truncated, info) == (False, False, {"is_success": False, "wiped": 0.0})
    env.data.qpos[3] = env.model.jnt_range[3, 1]
    assert env.step(np.zeros(6))[2:4] == (True, False)
    env.reset(seed=0)
    env.sim_env.wiped_markers = list(env.sim_env.model.mujoco_arena.markers)
    assert env.step(np.zeros(6))[2:] == (True, False, {"is_success": True, "wiped": 1.0})


def test_an_open_door_is_a_success(plain: dict[str, RobosuiteEnv]) -> None:
    env = plain["Door"]
    assert env.reset(seed=0)[1] == {"is_success": False}
    env.data.joint("Door_hinge").qpos[:] = 0.39
    _, reward, terminated, _, info = env.step(np.zeros(7))
    assert (reward, terminated, info) == (1.0, False, {"is_success": True})


def test_only_images_are_rendered(plain: dict[str, RobosuiteEnv]) -> None:
    with pytest.raises(TaskError, match="render_mode: task 'Door' takes rgb_array or None, got 'human'"):
        make_robosuite("Door", RobosuiteShift(), render_mode="human")
    assert plain["Door"].render() is None


SILENT = """
import os, sys
from daft_rl.envs.robosuite import RobosuiteShift
from daft_rl.envs.robosuite.environment import make_robosuite
assert not any(name.split(".")[0] == "robosuite" for name in sys.modules)
env = make_robosuite("Wipe", RobosuiteShift())
env.reset(seed=0)
env.unwrapped.data.qpos[3] = 0.0  # robosuite warns of joint limits
assert env.step(env.action_space.sample())[2]
env.close()
assert os.environ.get("MUJOCO_GL") == "off"
"""


def test_import_and_steps_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "off")
    done = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
