"""Threads return what ``DummyVecEnv`` returns, bit for bit, on the real simulator."""

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
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from daft_rl.envs import make
from daft_rl.envs.batch.threads import ThreadedMujocoVecEnv
from daft_rl.envs.mujoco.tasks import MujocoShift, make_mujoco
from daft_rl.envs.wrappers import ActionDelay, ObservationShift
from daft_rl.errors import TaskError

Factory = Callable[[], gym.Env]
REGISTERED = ["Ant", "HalfCheetah"]
OTHERS = ["hopper_v5:HopperEnv", "walker2d_v5:Walker2dEnv", "humanoid_v5:HumanoidEnv", "swimmer_v5:SwimmerEnv"]

# Everybody has another model, and sees or acts through other wrappers.
SHIFTS: list[dict[str, Any]] = [
    {},
    {"friction": 0.3, "observation_noise": 0.1, "action_delay": 1},
    {"gravity": 0.5, "observation_offset": 0.2, "observation_scale": 1.5},
    {"mass": 2.0, "damping": 0.5, "observation_noise": 0.05, "observation_offset": 0.1, "action_delay": 3},
]


def factory(task: str, steps: int | None = None, /, shift: dict[str, Any] | None = None, **kwargs: Any) -> Factory:
    """A function that makes a registered task by name, another one by its class."""

    def make_one() -> gym.Env:
        if task in REGISTERED:
            env = make(task, shift=shift or {}, **kwargs)
        else:
            env = make_mujoco(f"gymnasium.envs.mujoco.{task}", MujocoShift(**(shift or {})), **kwargs)
        return TimeLimit(env, steps) if steps else env

    return make_one


def bits(value: Any) -> tuple[Any, ...]:
    array = np.asarray(value)
    return array.dtype, array.shape, array.tobytes()


def assert_same_infos(expected: list[dict[str, Any]], actual: list[dict[str, Any]]) -> None:
    for one, other in zip(expected, actual, strict=True):
        assert list(one) == list(other)
        assert {name: bits(one[name]) for name in one} == {name: bits(other[name]) for name in other}


def random_actions(venv: VecEnv, steps: int, dtype: Any = np.float32) -> np.ndarray:
    assert isinstance(venv.action_space, gym.spaces.Box)
    size = (steps, venv.num_envs, *venv.action_space.shape)
    return (np.random.default_rng(7).uniform(-1, 1, size) * venv.action_space.high).astype(dtype)


def assert_same_step(dummy: VecEnv, threads: VecEnv, action: np.ndarray) -> np.ndarray:
    expected, actual = dummy.step(action), threads.step(action)
    for one, other in zip(expected[:3], actual[:3], strict=True):
        assert bits(one) == bits(other)
    assert_same_infos(expected[3], actual[3])
    assert_same_infos(dummy.reset_infos, threads.reset_infos)
    return expected[2]


def assert_same(fns: list[Factory], steps: int, num_threads: int | None = None, dtype: Any = np.float32) -> int:
    """Step both engines alike, and return how many episodes ended."""
    dummy, threads = DummyVecEnv(fns), ThreadedMujocoVecEnv(fns, num_threads)
    try:
        for venv in (dummy, threads):
            venv.seed(3)
        assert bits(dummy.reset()) == bits(threads.reset())
        return sum(assert_same_step(dummy, threads, a).sum() for a in random_actions(dummy, steps, dtype))
    finally:
        threads.close()


@pytest.fixture
def engines() -> Any:
    """Makes a ``DummyVecEnv`` and its threaded twin, both reset."""
    made: list[VecEnv] = []

    def build(*fns: Factory) -> tuple[DummyVecEnv, ThreadedMujocoVecEnv]:
        both = DummyVecEnv(list(fns)), ThreadedMujocoVecEnv(list(fns), num_threads=2)
        made.extend(both)
        for venv in both:
            venv.seed(0)
            venv.reset()
        return both

    yield build
    for venv in made:
        venv.close()


@pytest.mark.parametrize("task", REGISTERED)
def test_whole_episodes(task: str) -> None:
    assert assert_same([factory(task), factory(task, shift=SHIFTS[1])], 1010) >= 2


@pytest.mark.parametrize("task", REGISTERED + OTHERS)
def test_different_models_wrappers_and_short_episodes(task: str) -> None:
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
def test_constructor_arguments(task: str, kwargs: dict[str, Any]) -> None:
    assert_same([factory(task, 25, shift=shift, **kwargs) for shift in SHIFTS[:2]], 60)


def test_reward_weights_may_differ_within_a_batch() -> None:
    weights = (0.1, 0.7, 1)
    fns = [factory("ant_v5:AntEnv", 30, ctrl_cost_weight=w, healthy_z_range=(0.2 + w / 3, 1.0)) for w in weights]
    assert_same(fns, 80)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_threads", [1, 2, 5, None])
def test_any_number_of_threads_and_any_float(num_threads: int | None, dtype: Any) -> None:
    assert_same([factory("HalfCheetah", 20, shift=shift) for shift in SHIFTS], 50, num_threads, dtype)


def test_one_environment() -> None:
    assert_same([factory("Ant", 20)], 50)


@pytest.mark.parametrize("wrapper", [OrderEnforcing, PassiveEnvChecker])
def test_gymnasiums_own_wrappers(wrapper: type[gym.Wrapper]) -> None:
    assert_same([lambda: wrapper(factory("hopper_v5:HopperEnv", 10)())] * 2, 30)


def test_nested_shifts() -> None:
    def make_one() -> gym.Env:
        inner = ObservationShift(ActionDelay(factory("Ant", 20, shift=SHIFTS[1])(), 2), noise=0.2, scale=0.7)
        return ObservationShift(ActionDelay(inner, 1), offset=1.0)

    assert_same([make_one, factory("Ant", 10, shift=SHIFTS[3]), factory("Ant", 10)], 50)


def test_float_sums_have_the_same_order() -> None:
    """The assumption behind the rewards: a sum along the rows of a matrix adds like the sum of each row."""
    rng = np.random.default_rng(0)
    for size in [*range(1, 40), 84, 129, 300]:
        for dtype in (np.float32, np.float64):
            matrix = (rng.standard_normal((5, size)) * 10 ** rng.uniform(-3, 3, (5, size))).astype(dtype)
            assert bits(matrix.sum(axis=1)) == bits([np.sum(row) for row in matrix])


def test_an_unstable_simulation_is_reset_as_in_gymnasium(engines: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes its warning
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
def test_edits_of_a_running_batch_count(engines: Any, edit: Callable[[VecEnv], None]) -> None:
    dummy, threads = engines(factory("Ant"), factory("Ant", shift=SHIFTS[1]))
    for t, action in enumerate(random_actions(dummy, 9)):
        if t == 4:
            edit(dummy)
            edit(threads)
        ended = assert_same_step(dummy, threads, action)
        assert ended.all() == (edit is edit_attribute and t == 5)


def test_new_data_between_steps_is_noticed(engines: Any) -> None:
    dummy, threads = engines(factory("HalfCheetah"), factory("HalfCheetah"))
    for action in random_actions(dummy, 2):
        assert_same_step(dummy, threads, action)
        for venv in (dummy, threads):
            core = venv.envs[1].unwrapped
            core.data = mujoco.MjData(core.model)


def test_reset_of_a_single_environment(engines: Any) -> None:
    dummy, threads = engines(*[factory("HalfCheetah", 6, shift=SHIFTS[3])] * 2)
    for t, action in enumerate(random_actions(dummy, 14)):
        assert_same_step(dummy, threads, action)
        if t == 2:
            for venv in (dummy, threads):
                venv.env_method("reset", seed=11, indices=1)


def test_paused_environments_rest_and_the_others_do_not_notice(engines: Any) -> None:
    fns = [factory("Ant", 9 + i, shift=shift) for i, shift in enumerate(SHIFTS)]
    dummy, threads = engines(*fns)
    rest = np.array([False, True, False, True])
    threads.pause(rest)
    at = [env.unwrapped.data.qpos.tobytes() for env in threads.envs]
    ends = 0
    for action in random_actions(dummy, 40):
        expected, actual = dummy.step(action), threads.step(action)
        for one, other in zip(expected[:3], actual[:3], strict=True):
            assert bits(one[~rest]) == bits(other[~rest])
        assert_same_infos([expected[3][i] for i in (0, 2)], [actual[3][i] for i in (0, 2)])
        assert not actual[2][rest].any()
        ends += expected[2].sum()
    assert ends >= 8
    assert [env.unwrapped.data.qpos.tobytes() == before for env, before in zip(threads.envs, at, strict=True)] == [
        *rest
    ]
    for venv in (dummy, threads):
        venv.seed(5)
    assert bits(dummy.reset()) == bits(threads.reset())
    for action in random_actions(dummy, 20):  # a reset wakes them
        assert_same_step(dummy, threads, action)


def test_seeds_and_options_are_used_once(engines: Any) -> None:
    dummy, threads = engines(*[factory("HalfCheetah", 5)] * 2)
    for venv in (dummy, threads):
        venv.seed(5)
        venv.set_options({"unused": 1})
    first = threads.reset()
    assert bits(dummy.reset()) == bits(first)
    assert bits(dummy.reset()) == bits(threads.reset())
    assert (threads._seeds, threads._options) == ([None] * 2, [{}] * 2)
    threads.seed(5)
    assert bits(threads.reset()) == bits(first)


def test_what_was_returned_stays(engines: Any) -> None:
    _, threads = engines(*[factory("humanoid_v5:HumanoidEnv", 5)] * 2)
    kept = []
    for action in random_actions(threads, 8):
        observations, rewards, dones, infos = threads.step(action)
        kept += [(value, bits(value)) for value in (observations, rewards, dones)]
        kept += [(value, bits(value)) for info in infos for value in info.values()]
    assert all(bits(value) == before for value, before in kept)


def test_actions_may_be_overwritten_while_threads_run(engines: Any) -> None:
    dummy, threads = engines(*[factory("Ant", shift={"action_delay": 1})] * 3)
    buffer = np.empty((3, 8), np.float32)
    for action in random_actions(dummy, 5):
        expected = dummy.step(action)[0]
        buffer[:] = action
        threads.step_async(buffer)
        buffer[:] = np.nan
        assert bits(expected) == bits(threads.step_wait()[0])


def test_training_is_the_same() -> None:
    weights = []
    for engine in (DummyVecEnv, ThreadedMujocoVecEnv):
        venv = engine([factory("hopper_v5:HopperEnv", 20)] * 3)
        agent = PPO("MlpPolicy", VecNormalize(venv), n_steps=16, batch_size=24, n_epochs=2, seed=0, device="cpu")
        weights.append([bits(value) for value in agent.learn(96).policy.state_dict().values()])
        venv.close()
    assert weights[0] == weights[1]


def test_images_come_from_the_environments(monkeypatch: Any) -> None:
    monkeypatch.setattr(MujocoEnv, "render", lambda self: np.full((2, 2, 3), self.model.nq, np.uint8))
    threads = ThreadedMujocoVecEnv([factory("HalfCheetah", render_mode="rgb_array")] * 2)
    threads.reset()
    assert [image.shape for image in threads.get_images() if image is not None] == [(2, 2, 3)] * 2
    assert bits(threads.render("rgb_array")) == bits(np.full((4, 2, 3), 9, np.uint8))
    threads.close()


def test_an_error_of_the_simulator_is_raised(engines: Any) -> None:
    _, threads = engines(*[factory("HalfCheetah")] * 4)
    action = random_actions(threads, 1)[0]
    for bad in range(4):
        options = threads.envs[bad].unwrapped.model.opt
        good, options.integrator = options.integrator, 99
        threads.step_async(action)
        with pytest.raises(mujoco.FatalError, match="integrator"):
            threads.step_wait()
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
    assert bits(dummy.reset()) == bits(threads.reset())
    for action in random_actions(dummy, 5):
        assert_same_step(dummy, threads, action)


class OwnReward(AntEnv):
    def control_cost(self, action: Any) -> Any:
        return 0.0


@pytest.mark.parametrize(
    ("make_one", "message"),
    [
        (lambda: gym.make("InvertedPendulum-v5"), "'InvertedPendulumEnv' is none of their tasks"),
        (lambda: gym.make("CartPole-v1"), "'CartPoleEnv' is none"),
        (OwnReward, "'OwnReward' redefines control_cost of AntEnv"),
        (lambda: Monitor(make("Ant")), "the wrapper Monitor .*VecMonitor"),
        (lambda: gym.wrappers.ClipAction(make("Ant")), "the wrapper ClipAction"),
        (lambda: make("Ant", render_mode="human"), "render_mode='human'"),
    ],
)
def test_what_is_unsupported_is_said(make_one: Factory, message: str) -> None:
    with pytest.raises(TaskError, match=f"(?s){message}.*AntEnv, .*vec='dummy'"):
        ThreadedMujocoVecEnv([make_one])


def test_environments_must_fit_together() -> None:
    with pytest.raises(TaskError, match="must observe the same"):
        ThreadedMujocoVecEnv([factory("Ant"), factory("HalfCheetah")])
    swapped: list[dict[str, Any]] = [{f"include_{name}_in_observation": False} for name in ("cvel", "cfrc_ext")]
    with pytest.raises(TaskError, match="must observe the same"):  # although the sizes agree
        ThreadedMujocoVecEnv([factory("humanoid_v5:HumanoidEnv", **kwargs) for kwargs in swapped])
    env = make("Ant")
    with pytest.raises(ValueError, match="same instance"):
        ThreadedMujocoVecEnv([lambda: env] * 2)


@pytest.mark.parametrize("num_threads", [0, -1, 1.5, True])
def test_the_number_of_threads_must_make_sense(num_threads: Any) -> None:
    with pytest.raises(TaskError, match="num_threads: expected a whole number >= 1"):
        ThreadedMujocoVecEnv([factory("HalfCheetah")], num_threads)


def test_misuse_is_refused() -> None:
    threads = ThreadedMujocoVecEnv([factory("HalfCheetah")] * 2)
    with pytest.raises(ResetNeeded):
        threads.step(np.zeros((2, 6)))
    threads.reset()
    for shape in [(2, 5), (3, 6), (6,)]:
        with pytest.raises(TaskError, match="Action dimension mismatch"):
            threads.step(np.zeros(shape))
    threads.close()


def threads_of_ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("mujoco-")]


def test_closing_or_forgetting_ends_the_threads() -> None:
    gc.collect()
    assert not threads_of_ours()
    venv = ThreadedMujocoVecEnv([factory("HalfCheetah")] * 4, num_threads=3)
    venv.reset()
    venv.step(np.zeros((4, 6)))
    assert len(threads_of_ours()) == 2
    venv.step_async(np.zeros((4, 6)))
    venv.close()
    assert not threads_of_ours()
    venv.close()

    forgotten = ThreadedMujocoVecEnv([factory("HalfCheetah")] * 4, num_threads=3)
    forgotten.reset()
    forgotten.step(np.zeros((4, 6)))
    threads = threads_of_ours()
    assert len(threads) == 2
    del forgotten
    gc.collect()
    for thread in threads:
        thread.join(timeout=5)
    assert not threads_of_ours()
