"""Shifts of robosuite's tasks reach model and trajectory."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from daft_rl.envs.robosuite import RobosuiteShift
from daft_rl.envs.robosuite.environment import RobosuiteEnv, make_robosuite
from daft_rl.errors import TaskError
from tests.envs.test_robosuite import steer

pytestmark = pytest.mark.skipif(find_spec("robosuite") is None, reason="robosuite is not installed")


HINGE_ANGLE = 6  # of Door's observation: after the positions of door and handle


def push(env: RobosuiteEnv) -> NDArray[Any]:
    """Observations while the unlatched door swings open, or while the wiper is pressed to the table."""
    observation, _ = env.reset(seed=0)
    if env.base == "Door":
        env.data.joint("Door_hinge").qpos[:], env.data.joint("Door_hinge").qvel[:] = 0.1, 1.0
    rng, rows = np.random.default_rng(0), [observation]
    for step in range(15 if env.base == "Door" else 40):
        rows.append(env.step(steer(env.base, rows[-1], step, rng))[0])
    return np.array(rows)


def gain(env: RobosuiteEnv) -> NDArray[Any]:
    return env.sim_env.robots[0].part_controllers["right"].kp


def damping_gain(env: RobosuiteEnv) -> NDArray[Any]:
    return env.sim_env.robots[0].part_controllers["right"].kd


SHIFTS: list[tuple[str, dict[str, Any], Callable[[RobosuiteEnv], Any], Callable[[Any], Any]]] = [
    ("Door", {"controller_gain": 0.5}, gain, lambda x: 0.5 * x),
    ("Wipe", {"controller_gain": 0.5}, gain, lambda x: 0.5 * x),
    ("Door", {"damping_ratio": 0.3}, damping_gain, lambda x: 0.3 * x),
    ("Door", {"arm_mass": 1.5}, lambda e: e.model.body("robot0_link5").mass, lambda x: 1.5 * x),
    ("Wipe", {"arm_damping": 20.0}, lambda e: e.model.dof_damping[:7], lambda x: 20 * x),
    ("Door", {"arm_friction": 9.0}, lambda e: e.model.dof_frictionloss[:7], lambda x: 9 * x),
    ("Door", {"robot": "Sawyer"}, lambda e: e.model.njnt, lambda x: x),
    ("Wipe", {"robot": "IIWA"}, lambda e: e.model.njnt, lambda x: x),
    ("Wipe", {"robot": "Kinova3"}, lambda e: e.model.njnt, lambda x: x),
    ("Door", {"hinge_damping": 10.0}, lambda e: e.model.joint("Door_hinge").damping, lambda x: 10 * x),
    ("Door", {"hinge_friction": 1.0}, lambda e: e.model.joint("Door_hinge").frictionloss, lambda x: x + 1.0),
    ("Door", {"door_mass": 4.0}, lambda e: e.model.body("Door_door").inertia, lambda x: 4 * x),
    ("Door", {"latch": False}, lambda e: e.model.njnt, lambda x: x - 1),
    (
        "Door",
        {"door_offset": [0.01, 0.05]},
        lambda e: e.data.body("Door_main").xpos,
        lambda x: np.add(x, [0.01, 0.05, 0]),
    ),
    ("Wipe", {"table_friction": 10.0}, lambda e: e.model.geom("table_collision").friction, lambda x: 10 * x),
    ("Wipe", {"table_height": 0.05}, lambda e: e.model.body("table").pos, lambda x: np.add(x, [0, 0, 0.05])),
    ("Wipe", {"markers": 30}, lambda e: e.model.nbody, lambda x: x - 70),
    ("Wipe", {"line_width": 2.0}, lambda e: e.sim_env.line_width, lambda x: 2 * x),
    ("Wipe", {"two_clusters": True}, lambda e: e.sim_env.two_clusters, lambda _: True),
]


@pytest.mark.parametrize(
    ("base", "shift", "field", "expected"), SHIFTS, ids=lambda x: str(x) if isinstance(x, dict | str) else ""
)
def test_shifts_reach_model_and_trajectory(
    plain: dict[str, RobosuiteEnv], base: str, shift: dict[str, Any], field: Any, expected: Any
) -> None:
    env = RobosuiteEnv(base, RobosuiteShift(**shift))
    assert (env.observation_space, env.action_space) == (plain[base].observation_space, plain[base].action_space)
    plain[base].reset(seed=0)
    for _ in range(3):  # the shift survives resets and does not add up
        env.reset(seed=0)
        np.testing.assert_allclose(field(env), expected(field(plain[base])))
    shifted = push(env)
    assert np.abs(shifted - push(plain[base])).max() > 1e-4
    np.testing.assert_array_equal(shifted, push(env))
    env.close()


def test_a_door_without_latch_has_the_same_observation_shape() -> None:
    env = RobosuiteEnv("Door", RobosuiteShift(latch=False))
    observation = env.reset(seed=0)[0]
    observations = env.sim_env._get_observations()
    np.testing.assert_array_equal(observation[13], 0.0)
    np.testing.assert_array_equal(observation[:13], observations["object-state"].astype(np.float32))
    np.testing.assert_array_equal(observation[14:], observations["robot0_proprio-state"].astype(np.float32))
    env.data.joint("Door_hinge").qpos[:] = 0.05
    assert env.step(np.zeros(7))[0][HINGE_ANGLE] == pytest.approx(env.data.joint("Door_hinge").qpos[0], rel=1e-6)
    env.close()


def test_observations_and_actions_are_shifted(plain: dict[str, RobosuiteEnv]) -> None:
    late = make_robosuite("Door", RobosuiteShift(action_delay=2, observation_noise=0.1, observation_offset=0.5))
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 7)).astype(np.float32)
    plain["Door"].reset(seed=0)
    expected = [plain["Door"].step(action)[0] for action in [*np.zeros((2, 7)), *actions[:-2]]]
    late.reset(seed=0)
    difference = np.array([late.step(action)[0] for action in actions]) - expected
    assert difference.std(axis=0).mean() == pytest.approx(0.1, rel=0.15)
    assert 0.2 < difference.mean(axis=0).std() < 1.0
    again = [late.reset(seed=seed)[0] for seed in (6, 6)]
    np.testing.assert_array_equal(*again)
    late.close()


@pytest.mark.parametrize(
    ("base", "shift", "message"),
    [
        (
            "Wipe",
            {"hinge_damping": 2.0, "latch": False},
            "hinge_damping, shift.latch: does not exist in task 'Wipe'",
        ),
        ("Wipe", {"door_offset": [0, 0.1]}, "What exists there: observation_noise.*table_friction"),
        ("Door", {"table_friction": 2.0}, "What exists there: .*hinge_damping"),
        ("Wipe", {"robot": "Sawyer"}, "What exists there: Panda, IIWA, Kinova3, UR5e"),
        ("Drawer", {}, "What exists: Door, Wipe"),
    ],
)
def test_a_shift_must_fit_the_task(base: str, shift: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make_robosuite(base, RobosuiteShift(**shift))


def test_changes_rebuild_the_shift() -> None:
    shift = RobosuiteShift(door_offset=[0.0, 0.1], hinge_friction=1.0, robot="Sawyer")  # type: ignore[arg-type]
    assert RobosuiteShift.from_dict(shift.changes()) == shift
