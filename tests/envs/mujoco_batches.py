"""MuJoCo environments with various models and wrappers, and comparisons of batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from daft_rl.envs import make
from daft_rl.envs.batch.threads import ThreadedMujocoVecEnv
from daft_rl.envs.mujoco import MujocoShift
from daft_rl.envs.mujoco.environment import make_mujoco

Factory = Callable[[], gym.Env]


REGISTERED = ["Ant", "HalfCheetah"]


OTHERS = ["hopper_v5:HopperEnv", "walker2d_v5:Walker2dEnv", "humanoid_v5:HumanoidEnv", "swimmer_v5:SwimmerEnv"]


# Each environment has another model and other wrappers.
SHIFTS: list[dict[str, Any]] = [
    {},
    {"friction": 0.3, "observation_noise": 0.1, "action_delay": 1},
    {"gravity": 0.5, "observation_offset": 0.2, "observation_scale": 1.5},
    {"mass": 2.0, "damping": 0.5, "observation_noise": 0.05, "observation_offset": 0.1, "action_delay": 3},
]


def factory(task: str, steps: int | None = None, /, shift: dict[str, Any] | None = None, **kwargs: Any) -> Factory:
    """A function that makes one of our tasks by name, or another MuJoCo task by its class."""

    def make_one() -> gym.Env:
        if task in REGISTERED:
            env = make(task, shift=shift or {}, **kwargs)
        else:
            env = make_mujoco(f"gymnasium.envs.mujoco.{task}", MujocoShift(**(shift or {})), **kwargs)
        return TimeLimit(env, steps) if steps else env

    return make_one


def array_bits(value: Any) -> tuple[Any, ...]:
    array = np.asarray(value)
    return array.dtype, array.shape, array.tobytes()


def assert_same_infos(expected: list[dict[str, Any]], actual: list[dict[str, Any]]) -> None:
    for one, other in zip(expected, actual, strict=True):
        assert list(one) == list(other)
        assert {name: array_bits(one[name]) for name in one} == {name: array_bits(other[name]) for name in other}


def random_actions(venv: VecEnv, steps: int, dtype: Any = np.float32) -> NDArray[Any]:
    assert isinstance(venv.action_space, gym.spaces.Box)
    size = (steps, venv.num_envs, *venv.action_space.shape)
    return (np.random.default_rng(7).uniform(-1, 1, size) * venv.action_space.high).astype(dtype)


def assert_same_step(dummy: VecEnv, threads: VecEnv, action: NDArray[Any]) -> NDArray[Any]:
    expected, actual = dummy.step(action), threads.step(action)
    for one, other in zip(expected[:3], actual[:3], strict=True):
        assert array_bits(one) == array_bits(other)
    assert_same_infos(expected[3], actual[3])
    assert_same_infos(dummy.reset_infos, threads.reset_infos)
    return expected[2]


def assert_same(fns: list[Factory], steps: int, num_threads: int | None = None, dtype: Any = np.float32) -> int:
    """Step both engines with the same actions, and return how many episodes ended."""
    dummy, threads = DummyVecEnv(fns), ThreadedMujocoVecEnv(fns, num_threads)
    try:
        for venv in (dummy, threads):
            venv.seed(3)
        assert array_bits(dummy.reset()) == array_bits(threads.reset())
        return sum(assert_same_step(dummy, threads, a).sum() for a in random_actions(dummy, steps, dtype))
    finally:
        threads.close()
