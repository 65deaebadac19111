"""Batches in threads: changes while they run, errors, and the end of the threads."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv
from gymnasium.error import ResetNeeded
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.envs import make
from daft_rl.envs.batch.threads import ThreadedMujocoVecEnv
from daft_rl.errors import FaultyEnvironmentError, TaskError
from tests.envs.mujoco_batches import SHIFTS, Factory, array_bits, assert_same_step, factory, random_actions


def edit_objects(venv: VecEnv) -> None:
    for core in venv.get_attr("unwrapped"):
        core.model.opt.gravity[2] = -1.0
        core.model.opt.timestep *= 0.5
        core._ctrl_cost_weight = 2.0


def edit_by_method(venv: VecEnv) -> None:
    venv.env_method("set_wrapper_attr", "noise", 0.4, indices=[1])


def edit_attribute(venv: VecEnv) -> None:
    venv.set_attr("_max_episode_steps", 6)


@pytest.mark.parametrize("edit", [edit_objects, edit_by_method, edit_attribute])
def test_changes_of_a_running_batch_have_an_effect(engines: Any, edit: Callable[[VecEnv], None]) -> None:
    dummy, threads = engines(factory("Ant"), factory("Ant", shift=SHIFTS[1]))
    for t, action in enumerate(random_actions(dummy, 9)):
        if t == 4:
            edit(dummy)
            edit(threads)
        ended = assert_same_step(dummy, threads, action)
        assert ended.all() == (edit is edit_attribute and t == 5)


def test_new_simulator_data_is_used(engines: Any) -> None:
    dummy, threads = engines(factory("HalfCheetah"), factory("HalfCheetah"))
    for action in random_actions(dummy, 2):
        assert_same_step(dummy, threads, action)
        for venv in (dummy, threads):
            core = venv.envs[1].unwrapped
            core.data = mujoco.MjData(core.model)


def test_a_single_environment_can_be_reset(engines: Any) -> None:
    dummy, threads = engines(*[factory("HalfCheetah", 6, shift=SHIFTS[3])] * 2)
    for t, action in enumerate(random_actions(dummy, 14)):
        assert_same_step(dummy, threads, action)
        if t == 2:
            for venv in (dummy, threads):
                venv.env_method("reset", seed=11, indices=1)


def test_seeds_and_options_are_used_once(engines: Any) -> None:
    dummy, threads = engines(*[factory("HalfCheetah", 5)] * 2)
    for venv in (dummy, threads):
        venv.seed(5)
        venv.set_options({"unused": 1})
    first = threads.reset()
    assert array_bits(dummy.reset()) == array_bits(first)
    assert array_bits(dummy.reset()) == array_bits(threads.reset())
    assert (threads._seeds, threads._options) == ([None] * 2, [{}] * 2)
    threads.seed(5)
    assert array_bits(threads.reset()) == array_bits(first)


def test_returned_arrays_do_not_change_later(engines: Any) -> None:
    _, threads = engines(*[factory("humanoid_v5:HumanoidEnv", 5)] * 2)
    kept = []
    for action in random_actions(threads, 8):
        observations, rewards, dones, infos = threads.step(action)
        kept += [(value, array_bits(value)) for value in (observations, rewards, dones)]
        kept += [(value, array_bits(value)) for info in infos for value in info.values()]
    assert all(array_bits(value) == before for value, before in kept)


def test_actions_may_be_overwritten_while_threads_run(engines: Any) -> None:
    dummy, threads = engines(*[factory("Ant", shift={"action_delay": 1})] * 3)
    buffer = np.empty((3, 8), np.float32)
    for action in random_actions(dummy, 5):
        expected = dummy.step(action)[0]
        buffer[:] = action
        threads.step_async(buffer)
        buffer[:] = np.nan
        assert array_bits(expected) == array_bits(threads.step_wait()[0])


def test_images_come_from_the_environments(monkeypatch: Any) -> None:
    monkeypatch.setattr(MujocoEnv, "render", lambda self: np.full((2, 2, 3), self.model.nq, np.uint8))
    threads = ThreadedMujocoVecEnv([factory("HalfCheetah", render_mode="rgb_array")] * 2)
    threads.reset()
    assert [image.shape for image in threads.get_images() if image is not None] == [(2, 2, 3)] * 2
    assert array_bits(threads.render("rgb_array")) == array_bits(np.full((4, 2, 3), 9, np.uint8))
    threads.close()


def test_an_error_of_the_simulator_is_raised(engines: Any) -> None:
    _, threads = engines(*[factory("HalfCheetah")] * 4)
    action = random_actions(threads, 1)[0]
    for bad in range(4):
        options = threads.envs[bad].unwrapped.model.opt
        good, options.integrator = options.integrator, 99
        threads.step_async(action)
        with pytest.raises(FaultyEnvironmentError, match=rf"Environment {bad} failed in step.*integrator") as caught:
            threads.step_wait()
        assert isinstance(caught.value.__cause__, mujoco.FatalError)
        options.integrator = good
        threads.reset()
        threads.step(action)


def test_an_interrupt_waits_for_the_threads(engines: Any, monkeypatch: Any) -> None:
    dummy, threads = engines(*[factory("HalfCheetah")] * 3)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threads.envs[0].unwrapped, "_step_mujoco_simulation", interrupt)
        with pytest.raises(KeyboardInterrupt):
            threads.step(random_actions(threads, 1)[0])
    for venv in (dummy, threads):
        venv.seed(1)
    assert array_bits(dummy.reset()) == array_bits(threads.reset())
    for action in random_actions(dummy, 5):
        assert_same_step(dummy, threads, action)


class OwnReward(AntEnv):
    def control_cost(self, action: Any) -> Any:
        return 0.0


@pytest.mark.parametrize(
    ("make_one", "message"),
    [
        (lambda: gym.make("InvertedPendulum-v5"), "'InvertedPendulumEnv' is no supported task"),
        (lambda: gym.make("CartPole-v1"), "'CartPoleEnv' is no supported task"),
        (OwnReward, "'OwnReward' redefines control_cost of AntEnv"),
        (lambda: Monitor(make("Ant")), "the wrapper Monitor .*VecMonitor"),
        (lambda: gym.wrappers.ClipAction(make("Ant")), "the wrapper ClipAction"),
        (lambda: make("Ant", render_mode="human"), "render_mode='human'"),
    ],
)
def test_errors_name_what_is_not_supported(make_one: Factory, message: str) -> None:
    with pytest.raises(TaskError, match=f"(?s){message}.*AntEnv, .*vec='dummy'"):
        ThreadedMujocoVecEnv([make_one])


def test_environments_must_observe_the_same() -> None:
    with pytest.raises(TaskError, match="must observe the same"):
        ThreadedMujocoVecEnv([factory("Ant"), factory("HalfCheetah")])
    swapped: list[dict[str, Any]] = [{f"include_{name}_in_observation": False} for name in ("cvel", "cfrc_ext")]
    with pytest.raises(TaskError, match="must observe the same"):  # although the sizes agree
        ThreadedMujocoVecEnv([factory("humanoid_v5:HumanoidEnv", **kwargs) for kwargs in swapped])
    env = make("Ant")
    with pytest.raises(FaultyEnvironmentError, match="same instance"):
        ThreadedMujocoVecEnv([lambda: env] * 2)


@pytest.mark.parametrize("num_threads", [0, -1, 1.5, True])
def test_the_number_of_threads_is_checked(num_threads: Any) -> None:
    with pytest.raises(TaskError, match="num_threads: expected a whole number >= 1"):
        ThreadedMujocoVecEnv([factory("HalfCheetah")], num_threads)


def test_steps_before_reset_and_wrong_shapes_are_errors() -> None:
    threads = ThreadedMujocoVecEnv([factory("HalfCheetah")] * 2)
    with pytest.raises(ResetNeeded):
        threads.step(np.zeros((2, 6)))
    threads.reset()
    for shape in [(2, 5), (3, 6), (6,)]:
        with pytest.raises(TaskError, match="Action dimension mismatch"):
            threads.step(np.zeros(shape))
    threads.close()


def mujoco_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("mujoco-")]


def test_threads_end_with_their_batch() -> None:
    gc.collect()
    assert not mujoco_threads()
    venv = ThreadedMujocoVecEnv([factory("HalfCheetah")] * 4, num_threads=3)
    venv.reset()
    venv.step(np.zeros((4, 6)))
    assert len(mujoco_threads()) == 2
    venv.step_async(np.zeros((4, 6)))
    venv.close()
    assert not mujoco_threads()
    venv.close()

    forgotten = ThreadedMujocoVecEnv([factory("HalfCheetah")] * 4, num_threads=3)
    forgotten.reset()
    forgotten.step(np.zeros((4, 6)))
    threads = mujoco_threads()
    assert len(threads) == 2
    del forgotten
    gc.collect()
    for thread in threads:
        thread.join(timeout=5)
    assert not mujoco_threads()
