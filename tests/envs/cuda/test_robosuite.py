"""Door and Wipe on Warp's CPU device against robosuite: the same states, actions, shifts and distributions."""

from __future__ import annotations

import pickle
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from daft_rl.envs.robosuite import RobosuiteShift
from daft_rl.envs.robosuite.environment import RobosuiteEnv
from daft_rl.errors import TaskError

pytestmark = [
    pytest.mark.skipif(
        find_spec("robosuite") is None or find_spec("mujoco_warp") is None,
        reason="robosuite or mujoco_warp is not installed",
    ),
    pytest.mark.slow,  # the kernels of these models compile for a minute
]
SHIFTS: dict[str, list[dict[str, Any]]] = {
    "Door": [
        {},
        {"door_offset": (0.0, 0.15), "hinge_friction": 0.5, "hinge_damping": 20.0, "door_mass": 3.0},
        {"arm_mass": 1.5, "arm_damping": 30.0, "arm_friction": 20.0},
        {"controller_gain": 2.0, "damping_ratio": 0.5},
    ],
    "Wipe": [
        {},
        {"table_height": 0.1, "table_friction": 30.0},
        {"table_height": 0.1, "markers": 30, "line_width": 2.0},
        {"two_clusters": True, "arm_friction": 20.0, "controller_gain": 2.0},
    ],
}
STEPS = 9
ROBOT = {"Door": 14, "Wipe": 8}
"""Where the robot's part of the observation begins: seven joints, their cosines, sines, velocities, accelerations."""


def device_worlds(base: str) -> Any:
    """A world for each shift, from blueprints that went through pickle."""
    from daft_rl.envs.cuda.door import DoorWorlds
    from daft_rl.envs.cuda.wipe import WipeWorlds

    worlds = {"Door": DoorWorlds, "Wipe": WipeWorlds}[base]
    blueprints = [worlds.blueprint(RobosuiteShift(**shift)) for shift in SHIFTS[base]]
    return worlds(pickle.loads(pickle.dumps(blueprints)), np.arange(len(blueprints)), "cpu")


def start_of(envs: list[RobosuiteEnv], worlds: Any) -> Any:
    """How the episodes of robosuite's environments began, for the worlds."""
    import torch

    from daft_rl.envs.cuda.door import DoorStart
    from daft_rl.envs.cuda.wipe import WipeStart

    qpos = torch.tensor(np.array([env.data.qpos for env in envs]), dtype=torch.float32)
    if envs[0].base == "Door":
        frames = [env.model.body(env.sim_env.door.root_body) for env in envs]
        places, turns = np.array([frame.pos for frame in frames]), np.array([frame.quat for frame in frames])
        return DoorStart(qpos, torch.tensor(places).float(), torch.tensor(turns).float())
    markers = torch.zeros_like(worlds.markers)
    for world, env in enumerate(envs):
        assert env._fast is not None
        assert env._fast._wipe is not None
        places = env.data.xpos[env._fast._wipe.bodies]
        markers[world, : len(places)] = torch.tensor(places)
    return WipeStart(qpos, markers)


def assert_near(base: str, observation: NDArray[Any], expected: NDArray[Any]) -> None:
    """Accelerations differ most. A quaternion with a real part near 0 has either sign in robosuite itself."""
    first = ROBOT[base]
    accelerations, quaternion = slice(first + 28, first + 35), slice(first + 42, first + 46)
    np.testing.assert_allclose(observation[:, accelerations], expected[:, accelerations], rtol=2e-3, atol=2e-2)
    np.testing.assert_allclose(np.abs(np.sum(observation[:, quaternion] * expected[:, quaternion], 1)), 1.0, atol=1e-5)
    rest = np.ones(observation.shape[1], bool)
    rest[accelerations] = rest[quaternion] = False
    np.testing.assert_allclose(observation[:, rest], expected[:, rest], atol=2e-4)


@pytest.fixture(scope="module", params=list(SHIFTS))
def base(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def worlds(base: str) -> Any:
    return device_worlds(base)


@pytest.fixture(scope="module")
def envs(base: str) -> list[RobosuiteEnv]:
    return [RobosuiteEnv(base, RobosuiteShift(**shift)) for shift in SHIFTS[base]]


def test_replayed_actions_give_what_robosuite_gives_under_each_shift(
    base: str, worlds: Any, envs: list[RobosuiteEnv]
) -> None:
    import torch

    expected = np.array([env.reset(seed=1)[0] for env in envs])
    every = torch.ones(len(envs), dtype=torch.bool)
    assert_near(base, worlds.begin(start_of(envs, worlds), every).numpy(), expected)
    rng, touched, earned = np.random.default_rng(0), 0, []
    for step in range(STEPS):
        toward = [0.3, -0.9, 0.0] if base == "Door" else [0.2, 0.1, -1.0]
        actions = rng.uniform(-0.3, 0.3, (len(envs), worlds.action_space.shape[0])) + np.resize(
            [*toward, 0.0, 0.0, 0.0, 1.0], worlds.action_space.shape[0]
        )
        if base == "Wipe" and step == STEPS - 1:
            end_episodes(worlds, envs)
        actions = actions.clip(-1.0, 1.0).astype(np.float32)
        observation, reward, terminated, extras = worlds.move(torch.tensor(actions))
        theirs = [env.step(action) for env, action in zip(envs, actions, strict=True)]
        if base == "Door" or step < STEPS - 1:
            assert_near(base, observation.numpy(), np.array([each[0] for each in theirs]))
        np.testing.assert_allclose(reward.numpy(), [each[1] for each in theirs], atol=2e-4)
        np.testing.assert_array_equal(terminated.numpy(), [each[2] for each in theirs])
        for name, values in extras.items():
            np.testing.assert_allclose(values.numpy(), [each[4][name] for each in theirs], atol=1e-6)
        touched += sum(bool(env.data.ncon) for env in envs)
        earned.append([each[1] for each in theirs])
    assert touched >= 3
    assert len(np.unique(np.round(earned, 6), axis=1).T) == len(envs)
    worlds.check()
    if base == "Wipe":
        np.testing.assert_array_equal(terminated.numpy(), [False, True, True, True])
        np.testing.assert_array_equal(extras["is_success"].numpy(), [False, False, True, False])


def end_episodes(worlds: Any, envs: list[RobosuiteEnv]) -> None:
    """Lower the arm of world 1 onto the table, wipe all dirt of world 2, and turn a joint of world 3 to its limit."""
    for world, joint, angle in ((1, 1, 1.0), (3, 6, 2.85)):
        envs[world].data.qpos[joint] = angle
        worlds.qpos[world, joint] = angle
    envs[2].sim_env.wiped_markers = list(envs[2].sim_env.model.mujoco_arena.markers)
    worlds.wiped[2] = worlds._exists[2]


def test_episodes_begin_as_robosuite_draws_them(base: str, worlds: Any, envs: list[RobosuiteEnv]) -> None:
    from scipy.stats import ks_2samp

    ours, theirs = [], []
    for world in (0, len(envs) - 1):
        for seed in range(100):
            envs[world].reset(seed=1000 + seed)
            theirs.append(features(start_of([envs[world]] * len(envs), worlds), world))
            ours.append(features(worlds.sample(), world))
        values = np.array([ours[-100:], theirs[-100:]])
        for feature in range(values.shape[2]):
            if np.ptp(values[1, :, feature]) > 1e-6:
                assert ks_2samp(*values[:, :, feature]).pvalue > 1e-3, feature
            else:
                np.testing.assert_allclose(values[0, :, feature], values[1, :, feature], atol=1e-5)


def features(start: Any, world: int) -> NDArray[Any]:
    """Numbers whose distributions are compared: joints, and places or the shape of the lines of dirt."""
    qpos = start.qpos[world].numpy()
    if hasattr(start, "position"):
        return np.concatenate((qpos, start.position[world].numpy(), start.quaternion[world].numpy()))
    markers = start.markers[world].numpy()
    middle, last = markers[49:51], markers[-1]
    jump = np.linalg.norm(middle[1] - middle[0])
    around = markers - markers.mean(0)
    turns = np.diff(np.unwrap(np.arctan2(*np.diff(markers[:49, :2], axis=0).T)))
    return np.array([*qpos, *markers[0], *last, jump, np.abs(around).max(), turns.std(), (np.abs(turns) > 0.01).mean()])


def test_a_world_whose_time_is_over_starts_anew_and_the_others_go_on(base: str, worlds: Any) -> None:
    import torch

    worlds.seed(3)
    worlds.reset()
    worlds._elapsed[1] = worlds.time_limit - 1
    actions = torch.zeros(4, worlds.action_space.shape[0])
    actions[:, 1] = 0.5
    step = worlds.step(actions)
    np.testing.assert_array_equal(step.truncated.numpy(), [False, True, False, False])
    same = (step.observation == step.final_observation).all(1)
    np.testing.assert_array_equal(same.numpy(), ~step.done.numpy())
    speeds = step.observation[:, ROBOT[base] + 21 : ROBOT[base] + 28].abs().amax(1)
    assert speeds[1] == 0.0
    assert (speeds[[0, 2, 3]] > 1e-3).all()
    following = worlds.step(actions)
    assert torch.isfinite(following.observation).all()
    assert not following.done.any()


@pytest.mark.parametrize(("name", "value"), [("robot", "Sawyer"), ("latch", False)])
def test_worlds_of_one_batch_share_arm_and_latch(name: str, value: Any) -> None:
    from daft_rl.envs.cuda.door import DoorWorlds

    blueprint = DoorWorlds.blueprint(RobosuiteShift())
    other = replace(blueprint, shift=RobosuiteShift(**{name: value}))
    with pytest.raises(TaskError, match=f"shift.{name}: worlds of one batch must share it"):
        DoorWorlds([blueprint, other], np.array([0, 1]), "cpu")
