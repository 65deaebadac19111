"""Every entry of an observation and of an action has the name of what it is."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.wrappers import FrameStackObservation, TimeAwareObservation, TimeLimit, TransformReward

from daft_rl.envs import make, task_names
from daft_rl.envs.names import entry_names
from daft_rl.errors import TaskError


@pytest.mark.parametrize("name", [name for name in task_names() if not name.endswith("-shifted")])
def test_every_task_names_all_entries(name: str) -> None:
    env = make(name, shift={"observation_noise": 0.1, "action_delay": 1})
    names = entry_names(env)
    assert len(names.observation) == env.observation_space.shape[0]  # type: ignore[index]
    assert len(names.action) == env.action_space.shape[0]  # type: ignore[index]


@pytest.mark.parametrize("name", ["Ant", "Ant-fivelegs"])
def test_a_joint_that_moves_changes_the_entries_of_its_name(name: str) -> None:
    core: Any = make(name).unwrapped
    names = entry_names(core).observation
    before, _ = core.reset(seed=0)
    for entry, array in (("ankle_2.position", "qpos"), ("hip_3.velocity", "qvel")):
        core.reset(seed=0)
        joint = core.model.joint(entry.partition(".")[0])
        getattr(core.data, array)[joint.qposadr[0] if array == "qpos" else joint.dofadr[0]] += 0.5
        assert [names[i] for i in np.flatnonzero(core._get_obs() != before)] == [entry]


def test_each_motor_drives_the_joint_of_its_name() -> None:
    core: Any = make("Ant-fivelegs").unwrapped
    for i, name in enumerate(entry_names(core).action):
        core.reset(seed=0)
        core.data.ctrl[:] = np.eye(core.model.nu)[i]
        core.do_simulation(core.data.ctrl, 0)
        mujoco.mj_forward(core.model, core.data)
        assert np.flatnonzero(core.data.qfrc_actuator).tolist() == core.model.joint(name).dofadr.tolist()


@pytest.mark.parametrize("id", ["Hopper-v5", "Humanoid-v5", "InvertedPendulum-v5"])
def test_names_of_other_mujoco_tasks_come_from_the_model(id: str) -> None:
    names = entry_names(gym.make(id))
    assert any(name.endswith(".velocity") for name in names.observation)
    assert len(set(names.observation)) == len(names.observation)


class Named(gym.Env):
    """Tells its own names."""

    observation_space: Any = spaces.Dict({"arm": spaces.Box(-1, 1, (2,)), "goal": spaces.Box(-1, 1, (1,))})
    action_space = spaces.Discrete(2)
    observation_names: Any = {"arm": ["x", "y"], "goal": ["x"]}
    action_names: Any = ("left", "right")


def test_an_environment_tells_its_own_names() -> None:
    names = entry_names(TimeLimit(Named(), 10))
    assert names.observation == ("arm.x", "arm.y", "goal.x")
    assert names.action == ("left", "right")


class Turned(gym.ObservationWrapper):
    """Shows the entries backwards."""

    def observation(self, observation: Any) -> Any:
        return observation[::-1]


def test_a_wrapper_that_moves_entries_has_to_tell_the_names_itself() -> None:
    env: Any = Planner()
    env.observation_names, env.action_names = ["x", "y"], ["u", "v"]
    assert entry_names(TransformReward(env, float)).observation == ("x", "y")
    for _ in range(2):  # also below another wrapper
        env = TimeLimit(Turned(env), 10)
        with pytest.raises(TaskError, match=r"Turned may change the order of entries.*observation_names"):
            entry_names(env)
        env.observation_names = ["y", "x"]
        assert entry_names(env).observation == ("y", "x")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"arm": ["x"], "goal": ["x"]}, "2 names for 3 entries: arm.x, goal.x"),
        (["a", "b", "a"], "'a' twice"),
        ("abc", "expected a list of texts"),
    ],
)
def test_names_that_do_not_fit_are_refused(names: Any, message: str) -> None:
    env = Named()
    env.observation_names = names
    with pytest.raises(TaskError, match=message):
        entry_names(env)


class Planner(gym.Env):
    """Has a model of its own, which is none of MuJoCo."""

    observation_space = action_space = spaces.Box(-1, 1, (2,))
    model = "of its own"


class Backwards(HalfCheetahEnv):
    """Observes what its task observes, in another order."""

    def _get_obs(self) -> Any:
        return super()._get_obs()[::-1]


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Planner, "have no names"),
        (Backwards, "observes more than positions and velocities"),
        (lambda: TimeAwareObservation(make("HalfCheetah")), "TimeAwareObservation may change the order"),
        (lambda: FrameStackObservation(make("HalfCheetah"), 2), "FrameStackObservation may change the order"),
        (lambda: gym.make("CartPole-v1"), "have no names"),
        (lambda: gym.make("Reacher-v5"), "observes more than positions and velocities"),
    ],
)
def test_what_cannot_be_named_is_an_error_with_a_remedy(env: Any, message: str) -> None:
    with pytest.raises(TaskError, match=rf"(?s){message}.*observation_names and action_names"):
        entry_names(env())
