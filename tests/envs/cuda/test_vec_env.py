"""Worlds as an SB3 ``VecEnv``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

pytest.importorskip("mujoco_warp", reason="worlds need the extra `cuda`")

from daft_rl.envs import make_vec
from daft_rl.envs.cuda.vec_env import WorldsVecEnv
from daft_rl.errors import TaskError
from tests.envs.cuda.locomotion_tasks import blueprint, make_worlds, random_actions


def test_a_batch_of_worlds_is_made_by_the_name_of_a_task() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        venv = make_vec("Ant", num_envs=3, seed=1, shift="gravity-0.5", vec="cuda", device="cpu")
    assert isinstance(venv, WorldsVecEnv)
    observation = venv.reset()
    assert isinstance(observation, np.ndarray)
    assert (observation.shape, observation.dtype) == ((3, 105), np.float32)
    assert np.isclose(venv.worlds.blueprints[0].model.opt.gravity[2], -9.81 / 2)


def test_steps_return_arrays_and_final_observations() -> None:
    worlds = make_worlds(blueprint("Ant"), num_worlds=3)
    venv = WorldsVecEnv(worlds)
    venv.seed(0)
    venv.reset()
    worlds.physics.field("qpos")[1, 2] = 3.0
    observation, reward, done, infos = venv.step(random_actions(worlds, 1)[0].numpy())
    assert isinstance(observation, np.ndarray)
    assert reward.dtype == np.float32
    assert done.tolist() == [False, True, False]
    assert [info["TimeLimit.truncated"] for info in infos] == [False] * 3
    assert [("terminal_observation" in info) for info in infos] == done.tolist()
    assert infos[1]["terminal_observation"][0] > 2.5 > observation[1, 0]


def test_an_agent_learns_on_worlds() -> None:
    venv = make_vec("HalfCheetah", num_envs=4, seed=0, vec="cuda", device="cpu")
    agent = PPO("MlpPolicy", venv, n_steps=8, batch_size=16, n_epochs=1, seed=0, device="cpu")
    before = [value.clone() for value in agent.policy.parameters()]
    agent.learn(32)
    assert any(not torch.equal(one, other) for one, other in zip(before, agent.policy.parameters(), strict=True))


def test_single_worlds_cannot_be_changed() -> None:
    venv = WorldsVecEnv(make_worlds(blueprint("HalfCheetah"), num_worlds=2))
    assert venv.get_attr("num_worlds") == [2, 2]
    with pytest.raises(TaskError, match=r"gravity: .* one by one"):
        venv.set_attr("gravity", 1.0)
    with pytest.raises(TaskError, match=r"render: .* one by one"):
        venv.env_method("render")


def test_tasks_without_worlds_are_refused() -> None:
    with pytest.raises(TaskError, match="vec='cuda' cannot step"):
        make_vec("CartPole-v1", vec="cuda", device="cpu")


def test_environments_of_the_user_are_refused() -> None:
    with pytest.raises(TaskError, match="no environments of your own"):
        make_vec(lambda: None, vec="cuda", device="cpu")  # type: ignore[arg-type, return-value]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_reported() -> None:
    with pytest.raises(TaskError, match="PyTorch finds no GPU"):
        make_vec("Ant", vec="cuda")


def test_worlds_of_a_range_have_dynamics_of_their_own() -> None:
    venv = make_vec("HalfCheetah", 4, 0, {"gravity": {"low": 0.5, "high": 2.0}}, vec="cuda", device="cpu")
    assert isinstance(venv, WorldsVecEnv)
    shifts: list[Any] = [blueprint.shift for blueprint in venv.worlds.blueprints]
    gravity = venv.worlds.physics.model.opt.gravity.numpy()[:, 2]
    np.testing.assert_allclose(gravity, [-9.81 * shift.gravity for shift in shifts], rtol=1e-6)
    assert len(set(gravity)) == 4
