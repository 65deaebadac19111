"""Threads return what ``DummyVecEnv`` returns, bit for bit."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl.envs.batch.threads import ThreadedMujocoVecEnv
from daft_rl.envs.wrappers import ActionDelay, ObservationShift
from tests.envs.mujoco_batches import (
    OTHERS,
    REGISTERED,
    SHIFTS,
    array_bits,
    assert_same,
    assert_same_infos,
    assert_same_step,
    factory,
    random_actions,
)


@pytest.mark.parametrize("task", REGISTERED)
def test_whole_episodes_are_the_same(task: str) -> None:
    assert assert_same([factory(task), factory(task, shift=SHIFTS[1])], 1010) >= 2


@pytest.mark.parametrize("task", REGISTERED + OTHERS)
def test_models_and_wrappers_may_differ_and_episodes_may_be_short(task: str) -> None:
    fns = [factory(task, 30 + i, shift=shift) for i, shift in enumerate(SHIFTS)]
    assert assert_same(fns, 140) >= 3 * len(SHIFTS)


@pytest.mark.parametrize(
    ("task", "kwargs"),
    [
        (
            "ant_v5:AntEnv",
            {"include_cfrc_ext_in_observation": False, "main_body": "front_left_leg", "ctrl_cost_weight": 1},
        ),
        ("ant_v5:AntEnv", {"exclude_current_positions_from_observation": False, "contact_force_range": (-0.2, 0.5)}),
        ("ant_v5:AntEnv", {"healthy_reward": 2, "healthy_z_range": (0.5, 0.8), "contact_cost_weight": 0.1}),
        ("half_cheetah_v5:HalfCheetahEnv", {"forward_reward_weight": 2.5, "ctrl_cost_weight": 0, "frame_skip": 3}),
        ("hopper_v5:HopperEnv", {"healthy_state_range": (-2, 2), "healthy_angle_range": (-1.0, 1.0)}),
        ("walker2d_v5:Walker2dEnv", {"terminate_when_unhealthy": False, "healthy_reward": 0.3}),
        ("humanoid_v5:HumanoidEnv", {"include_cvel_in_observation": False, "contact_cost_range": (0.0, 1e-5)}),
        ("humanoid_v5:HumanoidEnv", {"include_cinert_in_observation": False, "healthy_z_range": (1.2, 1.5)}),
        ("swimmer_v5:SwimmerEnv", {"exclude_current_positions_from_observation": False, "ctrl_cost_weight": 0.3}),
    ],
)
def test_constructor_arguments_have_an_effect(task: str, kwargs: dict[str, Any]) -> None:
    assert_same([factory(task, 25, shift=shift, **kwargs) for shift in SHIFTS[:2]], 60)


def test_reward_weights_may_differ_within_a_batch() -> None:
    weights = (0.1, 0.7, 1)
    fns = [factory("ant_v5:AntEnv", 30, ctrl_cost_weight=w, healthy_z_range=(0.2 + w / 3, 1.0)) for w in weights]
    assert_same(fns, 80)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_threads", [1, 2, 5, None])
def test_numbers_do_not_depend_on_the_number_of_threads(num_threads: int | None, dtype: Any) -> None:
    assert_same([factory("HalfCheetah", 20, shift=shift) for shift in SHIFTS], 50, num_threads, dtype)


def test_a_batch_may_have_one_environment() -> None:
    assert_same([factory("Ant", 20)], 50)


@pytest.mark.parametrize("wrapper", [OrderEnforcing, PassiveEnvChecker])
def test_wrappers_of_gymnasium_are_supported(wrapper: type[gym.Wrapper]) -> None:
    assert_same([lambda: wrapper(factory("hopper_v5:HopperEnv", 10)())] * 2, 30)


def test_shifts_may_be_nested() -> None:
    def make_one() -> gym.Env:
        inner = ObservationShift(ActionDelay(factory("Ant", 20, shift=SHIFTS[1])(), 2), noise=0.2, scale=0.7)
        return ObservationShift(ActionDelay(inner, 1), offset=1.0)

    assert_same([make_one, factory("Ant", 10, shift=SHIFTS[3]), factory("Ant", 10)], 50)


def test_sums_along_rows_add_in_the_order_of_single_sums() -> None:
    """Rewards rely on this: the sum along the rows of a matrix has the bits of the sum of each row."""
    rng = np.random.default_rng(0)
    for size in [*range(1, 40), 84, 129, 300]:
        for dtype in (np.float32, np.float64):
            matrix = (rng.standard_normal((5, size)) * 10 ** rng.uniform(-3, 3, (5, size))).astype(dtype)
            assert array_bits(matrix.sum(axis=1)) == array_bits([np.sum(row) for row in matrix])


def test_an_unstable_simulation_is_reset_as_in_gymnasium(engines: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warning here
    dummy, threads = engines(*[factory("humanoid_v5:HumanoidEnv", 40)] * 2, factory("humanoid_v5:HumanoidEnv", 40))
    for venv in (dummy, threads):
        venv.envs[1].unwrapped.data.qvel[:] = 1e12
        venv.envs[2].unwrapped.data.qvel[3] = np.nan
    with np.errstate(all="ignore"):
        for action in random_actions(dummy, 5):
            assert_same_step(dummy, threads, action)
    warnings = [[env.unwrapped.data.warning.number.tolist() for env in venv.envs] for venv in (dummy, threads)]
    assert warnings[0] == warnings[1]
    assert (tmp_path / "MUJOCO_LOG.TXT").exists()


def test_paused_environments_stop_and_do_not_affect_others(engines: Any) -> None:
    fns = [factory("Ant", 9 + i, shift=shift) for i, shift in enumerate(SHIFTS)]
    dummy, threads = engines(*fns)
    rest = np.array([False, True, False, True])
    threads.pause(rest)
    at = [env.unwrapped.data.qpos.tobytes() for env in threads.envs]
    ends = 0
    for action in random_actions(dummy, 40):
        expected, actual = dummy.step(action), threads.step(action)
        for one, other in zip(expected[:3], actual[:3], strict=True):
            assert array_bits(one[~rest]) == array_bits(other[~rest])
        assert_same_infos([expected[3][i] for i in (0, 2)], [actual[3][i] for i in (0, 2)])
        assert not actual[2][rest].any()
        ends += expected[2].sum()
    assert ends >= 8
    assert [env.unwrapped.data.qpos.tobytes() == before for env, before in zip(threads.envs, at, strict=True)] == [
        *rest
    ]
    for venv in (dummy, threads):
        venv.seed(5)
    assert array_bits(dummy.reset()) == array_bits(threads.reset())
    for action in random_actions(dummy, 20):  # a reset ends the pause
        assert_same_step(dummy, threads, action)


def test_training_is_the_same() -> None:
    weights = []
    for engine in (DummyVecEnv, ThreadedMujocoVecEnv):
        venv = engine([factory("hopper_v5:HopperEnv", 20)] * 3)
        agent = PPO("MlpPolicy", VecNormalize(venv), n_steps=16, batch_size=24, n_epochs=2, seed=0, device="cpu")
        weights.append([array_bits(value) for value in agent.learn(96).policy.state_dict().values()])
        venv.close()
    assert weights[0] == weights[1]
