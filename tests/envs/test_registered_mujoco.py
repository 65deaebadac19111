"""Any registered MuJoCo environment takes the shifts of MuJoCo's model."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from omegaconf import OmegaConf

from daft_rl.archives.statistics_wrapper import TIME_FEATURE
from daft_rl.composing import compose_config
from daft_rl.envs import levels, make, make_vec
from daft_rl.envs.batch.serial import SerialVecEnv
from daft_rl.envs.batch.threads import ThreadedMujocoVecEnv
from daft_rl.envs.domain import read_domains
from daft_rl.envs.mujoco import MujocoShift
from daft_rl.envs.randomization import ShiftRange
from daft_rl.envs.registry import get_task, read_shift
from daft_rl.errors import TaskError
from daft_rl.settings import TaskSettings

WITH_RULES = ("Hopper-v5", "Walker2d-v5", "Swimmer-v5", "Humanoid-v5", "Ant-v5")
OTHERS = ("Hopper-v4", "InvertedPendulum-v5", "Reacher-v5", "OwnHopper-v0", "Robot-v0", "TimedHopper-v0")


class OwnHopper(HopperEnv):
    """Pays in its own way, which no rule of threads knows."""

    def _get_rew(self, *args: Any) -> Any:
        reward, terms = super()._get_rew(*args)
        return 2 * reward, terms


class Robot(gym.Env[Any, Any]):
    """Makes its model as gymnasium-robotics does: by itself, and with nothing returned."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self._initialize_simulation()
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
        self.action_space = gym.spaces.Box(-1, 1, (1,))

    def _initialize_simulation(self) -> None:
        self.model = mujoco.MjModel.from_xml_string("<mujoco><worldbody/></mujoco>")

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), 0.0, False, False, {}


for _name in ("OwnHopper", "Robot"):
    gym.register(f"{_name}-v0", f"{__name__}:{_name}", max_episode_steps=100)
_timed = gym.envs.registration.WrapperSpec("Time", "gymnasium.wrappers:TimeAwareObservation", {})
gym.register("TimedHopper-v0", HopperEnv, max_episode_steps=100, additional_wrappers=(_timed,))


@pytest.mark.parametrize("id", [*WITH_RULES, *OTHERS])
def test_its_model_is_shifted_and_its_source_is_the_registered_environment(id: str) -> None:
    domains = read_domains({"name": f"mujoco/{id}", "shift": {"gravity": 0.6}})
    target, source, plain = domains["target"].make(), domains["source"].make(), gym.make(id)
    shifted, unshifted = (env.unwrapped.model.opt.gravity[2] for env in (target, plain))  # type: ignore[attr-defined]
    assert shifted == pytest.approx(0.6 * unshifted)
    assert target.spec is not None
    assert plain.spec is not None
    assert target.spec.max_episode_steps == plain.spec.max_episode_steps
    np.testing.assert_array_equal(source.reset(seed=0)[0], plain.reset(seed=0)[0])
    plain.action_space.seed(0)
    for _ in range(5):
        action = plain.action_space.sample()
        np.testing.assert_array_equal(source.step(action)[0], plain.step(action)[0])


@pytest.mark.parametrize("id", WITH_RULES)
def test_threads_step_what_they_have_rules_for_with_the_same_numbers(id: str) -> None:
    name, shift = f"mujoco/{id}", {"gravity": 0.6, "mass": 1.5}
    assert get_task(name).vec == "threads"
    batches = [make_vec(name, 2, seed=0, shift=shift, vec=vec) for vec in ("auto", "dummy")]
    one, other = (np.asarray(batch.reset()) for batch in batches)
    np.testing.assert_array_equal(one, other)
    generator = np.random.default_rng(0)
    for _ in range(30):
        space = batches[0].action_space
        actions = generator.uniform(space.low, space.high, (2, *space.shape)).astype(np.float32)  # type: ignore
        for ours, theirs in zip(*(batch.step(actions)[:3] for batch in batches), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for batch in batches:
        batch.close()


@pytest.mark.parametrize("id", OTHERS)
def test_others_step_one_after_the_other(id: str) -> None:
    assert get_task(f"mujoco/{id}").vec == "dummy"


def test_keywords_and_wrappers_go_with_it() -> None:
    """A wrapped environment steps by itself; keywords alone leave it to the threads."""
    env = {"name": "mujoco/HalfCheetah-v5", "shift": {"gravity": 0.6}, "kwargs": {"ctrl_cost_weight": 0.5}}
    wrapped = read_domains(env | {"wrappers": [TIME_FEATURE], "source_kwargs": {"frame_skip": 2}})
    target, source = wrapped["target"].make(), wrapped["source"].make()
    cores: list[Any] = [target.unwrapped, source.unwrapped]
    assert [core.model.opt.gravity[2] for core in cores] == pytest.approx([-0.6 * 9.81, -9.81])
    assert [(core._ctrl_cost_weight, core.frame_skip) for core in cores] == [(0.5, 5), (0.1, 2)]
    assert target.reset(seed=0)[0][-1] == 1.0  # the time that is left
    np.testing.assert_array_equal(source.reset(seed=0)[0][:-1], gym.make("HalfCheetah-v5").reset(seed=0)[0])
    for domain, kind in ((wrapped["target"], SerialVecEnv), (read_domains(env)["target"], ThreadedMujocoVecEnv)):
        venv = domain.make_vec(2, "auto")
        assert type(venv.unwrapped) is kind
        assert domain.steps_in_threads("auto") is (kind is ThreadedMujocoVecEnv)
        venv.close()


def test_threads_step_keywords_with_the_same_numbers() -> None:
    kwargs = {"ctrl_cost_weight": 0.5, "forward_reward_weight": 2.0, "reset_noise_scale": 0.3}
    domain = read_domains({"name": "mujoco/HalfCheetah-v5", "shift": {"mass": 1.5}, "kwargs": kwargs})["target"]
    threads, serial = (domain.make_vec(2, vec) for vec in ("threads", "dummy"))
    threads.seed(0)
    serial.seed(0)
    np.testing.assert_array_equal(threads.reset(), serial.reset())  # type: ignore[arg-type]
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 2, 6)).astype(np.float32):
        for ours, theirs in zip(threads.step(action)[:2], serial.step(action)[:2], strict=True):
            np.testing.assert_array_equal(ours, theirs)  # type: ignore[arg-type]


def test_a_shift_of_the_model_alone_is_a_shift_of_it() -> None:
    made: list[Any] = [make("mujoco/Hopper-v5", shift).unwrapped for shift in (MujocoShift(gravity=0.5), None)]
    assert made[0].model.opt.gravity[2] == 0.5 * made[1].model.opt.gravity[2]
    low, high = MujocoShift(gravity=0.5), MujocoShift(gravity=2.0)
    assert read_shift("mujoco/Hopper-v5", ShiftRange(low, high)).changes() == {"gravity": {"low": 0.5, "high": 2.0}}


def test_a_range_draws_a_model_for_each_environment() -> None:
    venv = make_vec("mujoco/Hopper-v5", 3, shift={"gravity": {"low": 0.5, "high": 2.0}}, vec="dummy")
    drawn = {model.opt.gravity[2] for model in venv.get_attr("model")}
    assert len(drawn) == 3
    assert all(-2.0 * 9.81 < gravity < -0.5 * 9.81 for gravity in drawn)


def test_levels_and_limb_sizes_are_those_of_mujoco() -> None:
    assert "gravity-0.5" in levels("mujoco/Hopper-v4")
    cores: list[Any] = [make("mujoco/Hopper-v4", {"limb_size": size}).unwrapped for size in (1.0, 1.5)]
    plain, larger = (core.model.geom("foot_geom").size[0] for core in cores)
    assert larger == pytest.approx(1.5 * plain)


@pytest.mark.parametrize(
    ("id", "shift", "message"),
    [
        ("CartPole-v1", {}, "'CartPole-v1' is no MuJoCo environment"),
        ("Hopper-v5", {"friction": {"toe": 2.0}}, "'toe' matches no name. What exists: floor, foot_geom"),
        ("Hopper-v5", {"grav": 2.0}, "grav"),
        ("Hopper-v3", {}, "Hopper-v3 cannot be made: .* Gymnasium has Hopper-v4, Hopper-v5 too"),
        ("Nothing-v5", {}, "Expected an id that is registered"),
        ("Robot-v0", {"limb_size": 2.0}, "Robot makes its model in a way of its own"),
    ],
)
def test_mistakes_are_one_line(id: str, shift: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        make(f"mujoco/{id}", shift)
    assert "\n" not in str(caught.value)


def test_the_command_line_names_it_by_its_id() -> None:
    own = [f"env.wrappers=[{TIME_FEATURE}]", "env.kwargs.frame_skip=3"]
    overrides = ["env=mujoco", "env.id=Hopper-v5", "env.shift.gravity=0.6", "agent=Ant-ppo", *own]
    env: Any = OmegaConf.to_container(compose_config("transfer", overrides).env)
    settings = TaskSettings(**env)
    assert settings.name == "mujoco/Hopper-v5"
    changes = read_domains(vars(settings))["target"].changes
    assert changes == {"gravity": 0.6, "wrappers": (TIME_FEATURE,), "kwargs": {"frame_skip": 3}}
    assert TaskSettings(**vars(settings)) == settings
