"""Worker processes return what ``DummyVecEnv`` returns, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import OrderEnforcing, RecordEpisodeStatistics, TimeLimit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from daft_rl.envs import make, make_vec
from daft_rl.envs.batch.workers import WorkerVecEnv
from tests.envs.toys import SPACES, Toy, actions_for, bits, toy

pytestmark = pytest.mark.usefixtures("no_process_stays")


def test_every_space_gives_the_same_numbers(build: Any) -> None:
    for space in SPACES:
        fns = [toy(space, discrete=space in ("image", "dict"))] * 3
        dummy, workers = DummyVecEnv(fns), build(fns, 1)
        assert (workers.observation_space, workers.action_space) == (dummy.observation_space, dummy.action_space)
        assert dummy.seed(4) == workers.seed(4)
        assert bits(dummy.reset()) == bits(workers.reset())
        ended = 0
        for t in range(25):
            expected, actual = (venv.step(actions_for(dummy, t)) for venv in (dummy, workers))
            assert bits(expected) == bits(actual)
            assert bits(dummy.reset_infos) == bits(workers.reset_infos)
            ended += expected[2].sum()
        assert ended > 3
        workers.close()


def seed_both(venv: VecEnv, seed: int) -> Any:
    return venv.seed(seed)


def reset_all(venv: VecEnv, seed: int) -> Any:
    return venv.reset()


def reset_with_options(venv: VecEnv, seed: int) -> Any:
    venv.set_options([{"row": seed}, {}, {"row": 3}] if seed % 2 else {"all": seed})
    return venv.reset(), venv._options, venv._seeds


def step(venv: VecEnv, seed: int) -> Any:
    return venv.step(actions_for(venv, seed)), venv.reset_infos


def method_after_a_step(venv: VecEnv, seed: int) -> Any:
    venv.step_async(actions_for(venv, seed))
    return venv.step_wait(), venv.env_method("reset", seed=seed, indices=[seed % 3])


def set_and_get(venv: VecEnv, seed: int) -> Any:
    venv.set_attr("mark", seed, indices=[2, 0])
    return venv.get_attr("mark", indices=(0, 2, 2, -1)), venv.get_attr("spec", 1), venv.has_attr("mark")


def image(venv: VecEnv, seed: int) -> Any:
    return venv.render(), venv.get_images()


@pytest.fixture(scope="module")
def twins() -> Iterator[tuple[VecEnv, VecEnv]]:
    fns = [
        toy("dict", render=True),
        lambda: RecordEpisodeStatistics(toy("dict", render=True)()),
        toy("dict", render=True),
    ]
    pair = DummyVecEnv(fns), WorkerVecEnv(fns, 2)
    for venv in pair:
        venv.seed(0)
        venv.reset()
    yield pair
    pair[1].close()


OPERATIONS = [seed_both, reset_all, reset_with_options, step, step, step, method_after_a_step, set_and_get, image]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 9)), min_size=3, max_size=12))
def test_any_order_of_operations_gives_the_same_results(
    twins: tuple[VecEnv, VecEnv], plan: list[tuple[Callable[..., Any], int]]
) -> None:
    def strip(value: Any) -> Any:  # RecordEpisodeStatistics measures time
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key != "t"}
        return type(value)(map(strip, value)) if isinstance(value, (list, tuple)) else value

    for operation, seed in plan:
        expected, actual = (strip(operation(venv, seed)) for venv in twins)
        assert bits(expected) == bits(actual)


def test_environments_have_the_same_attributes(twins: tuple[VecEnv, VecEnv]) -> None:
    for venv in twins:
        assert venv.render_mode == "rgb_array"
        assert venv.metadata == Toy.metadata
        assert venv.env_is_wrapped(TimeLimit) == [True] * 3
        assert venv.env_is_wrapped(RecordEpisodeStatistics, [0, 1]) == [False, True]
        assert venv.env_is_wrapped(gym.Wrapper, 0) == [True]
        assert venv.env_is_wrapped(Monitor) == venv.env_is_wrapped(OrderEnforcing) == [False] * 3
        assert venv.has_attr("lock")
        assert not venv.has_attr("nope")
        with pytest.raises(AttributeError, match="nope"):
            venv.get_attr("nope")
        with pytest.raises(AttributeError, match="nope"):
            venv.env_method("nope")
    assert not any(process["torch"] for process in twins[1].env_method("process"))


def test_images_need_a_render_mode(build: Any) -> None:
    with pytest.warns(UserWarning, match="rgb_array"):
        assert build([toy()], 1).get_images() == [None]


def test_returned_arrays_do_not_change_later(build: Any) -> None:
    venv = build([toy()] * 2, 1)
    kept = [venv.reset()]
    before = bits(kept)
    for t in range(5):
        venv.step(actions_for(venv, t))
    assert bits(kept) == before
    assert kept[0].flags.owndata
    assert kept[0].flags.writeable


def test_workers_step_tasks_without_pytorch(build: Any) -> None:
    class Spy(gym.Wrapper):
        def process(self) -> dict[str, Any]:
            return Toy.process(self)  # type: ignore[arg-type]

    dummy = make_vec("HalfCheetah-shifted", num_envs=3, seed=5, vec="dummy")
    venv = build([lambda: Spy(make("HalfCheetah-shifted"))] * 3, 2)
    venv.seed(5)
    assert bits(dummy.reset()) == bits(venv.reset())
    for _ in range(5):
        actions = np.full((3, 6), 0.3, np.float32)
        assert bits(dummy.step(actions)) == bits(venv.step(actions))
    assert not any(process["torch"] for process in venv.env_method("process"))
