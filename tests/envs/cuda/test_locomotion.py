"""Worlds of Gymnasium's MuJoCo tasks compute what the C environments compute, within float32."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest
import torch

pytest.importorskip("mujoco_warp", reason="worlds need the extra `cuda`")

from daft_rl.envs.cuda.build import make_blueprints
from daft_rl.envs.cuda.build import make_worlds as make_worlds_of
from daft_rl.envs.cuda.locomotion import LocomotionWorlds
from daft_rl.envs.mujoco.shift import RegisteredMujocoShift
from daft_rl.envs.registered import RegisteredShift
from daft_rl.errors import TaskError
from tests.envs.cuda.locomotion_tasks import TASKS, Twins, blueprint, make_worlds, random_actions

SHIFTS: dict[str, list[dict[str, Any]]] = {
    "Ant": [
        {},
        {"gravity": 0.5},
        {"mass": {"torso": 2.0}},
        {"friction": 0.3},
        {"gear": 0.5},
        {"joint_range": {"hip_[12]": 0.05}},
        {"limb_size": {"left_ankle_geom": 0.5}},
        {"damping": 3.0},
        {"density": 1.2, "wind": (5.0, 0.0, 0.0)},
    ],
    "HalfCheetah": [
        {},
        {"gravity": 2.0},
        {"mass": 1.5},
        {"friction": 0.1},
        {"gear": {"bthigh": 0.2}},
        {"joint_range": {"bthigh": 0.05}},
        {"limb_size": {"?shin": 0.7}},
        {"damping": 0.3},
        {"density": 1.2, "wind": (0.0, 0.0, -8.0)},
    ],
}
OTHER_SHIFTS: list[dict[str, Any]] = [{}, {"gravity": 2.0}]
STEPS = {"Ant": 8, "HalfCheetah": 10}
"""Until everything has touched the ground. Others begin on it."""
TOLERANCE = {"Humanoid": 2e-3}
"""Largest differences relative to the size of a number. Humanoid observes forces of thousands of newtons."""


# each task compiles some kernels anew, for its sizes
@pytest.fixture(
    scope="module", params=[name if name in SHIFTS else pytest.param(name, marks=pytest.mark.slow) for name in TASKS]
)
def task(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def worlds(task: str) -> LocomotionWorlds:
    """A world for each shift."""
    return make_worlds(*[blueprint(task, shift) for shift in SHIFTS.get(task, OTHER_SHIFTS)])


def test_steps_equal_those_of_the_c_environments_under_every_shift(task: str, worlds: LocomotionWorlds) -> None:
    first = worlds.reset()
    twins, differences = Twins(worlds, task), []
    expected = [env.unwrapped._get_obs() for env in twins.envs]
    np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-5)
    for action in random_actions(worlds, STEPS.get(task, 4)):
        step, results = twins.step(action)
        for i, (observation, reward, terminated, _, _) in enumerate(results):
            scale = 1.0 + np.abs(observation)
            error = np.abs(step.final_observation[i].numpy() - observation) / scale
            differences.append((error.max(), abs(float(step.reward[i]) - reward) / (1.0 + abs(reward))))
            assert bool(step.terminated[i]) == terminated
    observations, rewards = np.array(differences).T
    assert np.median(observations) < 1e-5
    assert observations.max() < TOLERANCE.get(task, 2e-4)
    assert rewards.max() < TOLERANCE.get(task, 2e-5)
    worlds.check()


@pytest.mark.parametrize("task", SHIFTS, indirect=True)
def test_every_shift_changes_its_world(task: str, worlds: LocomotionWorlds) -> None:
    worlds.reset()
    for name in ("qpos", "qvel"):
        values = worlds.physics.field(name)
        values.copy_(values[:1].expand_as(values).clone())
    for action in random_actions(worlds, STEPS[task]):
        observation = worlds.step(action[:1].expand_as(action)).final_observation
    differences = (observation - observation[0]).abs().amax(1)
    assert (differences[1:] > 1e-2).all()


@pytest.mark.parametrize("task", ["HalfCheetah", "Humanoid", "Swimmer"])
def test_first_observations_are_distributed_as_in_gymnasium(task: str) -> None:
    plan = blueprint(task)
    worlds = make_worlds(plan, num_worlds=400)
    first = worlds.reset()
    assert first.dtype == torch.float32
    position = (worlds.physics.field("qpos").numpy() - plan.init_qpos) / plan.reset_noise
    velocity = (worlds.physics.field("qvel").numpy() - plan.init_qvel) / plan.reset_noise
    gaussian = task in ("Ant", "HalfCheetah")
    assert 0.99 < np.abs(position).max() < 1.01
    np.testing.assert_allclose(position.std(), np.sqrt(1 / 3), rtol=0.03)
    np.testing.assert_allclose(velocity.std(), 1.0 if gaussian else np.sqrt(1 / 3), rtol=0.04)
    assert (np.abs(velocity).max() > 2) == gaussian
    assert abs(position.mean()) < 0.05


@pytest.mark.parametrize(
    ("task", "kwargs"),
    [
        ("Ant", {"include_cfrc_ext_in_observation": False, "main_body": "front_left_leg", "frame_skip": 2}),
        ("Ant", {"exclude_current_positions_from_observation": False, "contact_force_range": (-0.2, 0.5)}),
        ("Ant", {"healthy_reward": 2, "healthy_z_range": (0.5, 0.8), "contact_cost_weight": 0.1}),
        pytest.param(
            *("Hopper", {"healthy_state_range": (-2.0, 2.0), "healthy_angle_range": (-1.0, 1.0)}),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("Walker2d", {"terminate_when_unhealthy": False, "healthy_reward": 0.3, "forward_reward_weight": 2.5}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_constructor_arguments_have_an_effect(task: str, kwargs: dict[str, Any]) -> None:
    worlds = make_worlds(blueprint(task, **kwargs), num_worlds=3)
    worlds.reset()
    twins = Twins(worlds, task, **kwargs)
    for action in random_actions(worlds, 5):
        step, results = twins.step(action)
        np.testing.assert_allclose(step.final_observation, [result[0] for result in results], rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(step.reward, [result[1] for result in results], rtol=1e-4, atol=1e-4)
        assert step.terminated.tolist() == [result[2] for result in results]


def test_ids_of_gymnasium_take_keywords() -> None:
    shift = RegisteredShift(kwargs={"ctrl_cost_weight": 0.5, "max_episode_steps": 3})
    worlds = make_worlds_of("Hopper-v5", 2, [shift], device="cpu", seed=0)
    worlds.reset()
    arguments: Any = worlds.blueprints[0]
    assert arguments.arguments.values["ctrl_cost_weight"] == 0.5
    ends = [worlds.step(action).truncated.tolist() for action in random_actions(worlds, 4)]  # type: ignore[arg-type]
    assert ends == [[False] * 2, [False] * 2, [True] * 2, [False] * 2]


def test_a_registered_environment_whose_model_is_shifted_is_that_task() -> None:
    [plan] = make_blueprints("mujoco/HalfCheetah-v5", [RegisteredMujocoShift(gravity=0.5)])
    ours: Any = blueprint("HalfCheetah", {"gravity": 0.5})
    assert _saved(plan.model) == _saved(ours.model)
    assert plan.time_limit == 1000
    assert vars(plan)["arguments"] == ours.arguments


def _saved(model: mujoco.MjModel) -> bytes:
    stored = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, stored)
    return stored.tobytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [("CartPole-v1", "'CartPoleEnv' is no supported task"), ("InvertedPendulum-v5", "is no supported task")],
)
def test_other_tasks_are_refused(name: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make_worlds_of(name, 2, [RegisteredShift()], device="cpu")
