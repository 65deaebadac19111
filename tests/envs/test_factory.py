"""Batches of environments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.envs import make, make_vec
from daft_rl.errors import TaskError


@pytest.mark.parametrize("vec", ["auto", "threads", "workers"])
def test_all_kinds_of_batches_give_the_same_numbers(vec: str) -> None:
    def play(venv: VecEnv) -> NDArray[Any]:
        rng = np.random.default_rng(0)
        rows = [venv.reset()]
        for _ in range(20):
            rows.append(venv.step(rng.uniform(-1, 1, (2, 6)).astype(np.float32))[0])
        venv.close()
        return np.array(rows)

    reference = play(make_vec("HalfCheetah-shifted", num_envs=2, seed=7, vec="dummy"))
    assert reference.shape == (21, 2, 17)
    np.testing.assert_array_equal(reference, play(make_vec("HalfCheetah-shifted", num_envs=2, seed=7, vec=vec)))
    np.testing.assert_array_equal(reference[0, 1], make("HalfCheetah-shifted").reset(seed=8)[0])


@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize(("task", "workers_from"), [("Door", 2), ("SafetyPointGoal", 3), ("SafetyAntGoal1-v0", 3)])
def test_workers_are_chosen_if_there_are_enough_cores(
    task: str, workers_from: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daft_rl.envs.factory.usable_cores", lambda: cores)
    monkeypatch.setattr("daft_rl.envs.factory.require_installed", lambda package: None)
    monkeypatch.setattr("daft_rl.envs.batch.serial.SerialVecEnv", lambda fns, step_timeout: "dummy")
    monkeypatch.setattr("daft_rl.envs.batch.workers.WorkerVecEnv", lambda fns, step_timeout: "workers")
    assert make_vec(task) == ("workers" if cores >= workers_from else "dummy")


def test_any_registered_id_makes_a_batch() -> None:
    venv = make_vec("Pendulum-v1", num_envs=2, seed=3, shift={"kwargs": {"g": 5.0}})
    assert venv.reset().shape == (2, 3)  # type: ignore[union-attr]
    assert [env.unwrapped.g for env in venv.envs] == [5.0, 5.0]  # type: ignore[attr-defined]
    venv.close()
    assert make("CartPole-v1").spec.max_episode_steps == 500  # type: ignore[union-attr]


def test_impossible_arguments_are_errors() -> None:
    with pytest.raises(TaskError, match=r"Unknown vec 'quantum'. What exists: auto, threads, workers, dummy"):
        make_vec("Ant", vec="quantum")
    with pytest.raises(TaskError, match="num_envs: expected at least 1, got 0"):
        make_vec("Ant", num_envs=0)
    with pytest.raises(TaskError, match="Put the shift in there"):
        make_vec(lambda: make("Ant"), shift={"gravity": 0.5})


def test_worlds_say_which_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daft_rl.envs.dependencies.find_spec", lambda name: None if name == "mujoco_warp" else object())
    with pytest.raises(TaskError, match=r"mujoco_warp, which is not installed: pip install 'daft-rl\[cuda\]'"):
        make_vec("Ant", vec="cuda", device="cpu")
