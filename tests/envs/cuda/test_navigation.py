"""Goal tasks on Warp: the numbers of Safety-Gymnasium from the same states, shifts per world, costs, episodes."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mujoco_warp", reason="worlds need the extra `cuda`")

from daft_rl.envs.cuda.layouts import AGENT, FIRST_HAZARD
from daft_rl.envs.cuda.navigation import NavigationWorlds
from daft_rl.envs.safety.shift import SafetyShift
from daft_rl.errors import SimulationError, TaskError
from tests.envs.cuda.navigation_twins import APPROACHES, CAR, POINT, blueprint, build, compare, parts

pytestmark = pytest.mark.skipif(find_spec("safety_gymnasium") is None, reason="safety_gymnasium is not installed")
SHIFTED: dict[str, Any] = {"gear": 3.0, "mass": 2.0, "damping": 2.0, "hazards": 12, "hazard_size": 1.5}


@pytest.mark.parametrize(
    ("base", "steps", "shifts"),
    [
        (POINT, 14, ({}, SHIFTED)),
        pytest.param(CAR, 14, ({}, SHIFTED), marks=pytest.mark.slow),
        pytest.param("SafetyPointGoal2-v0", 12, ({},), marks=pytest.mark.slow),
    ],
)
def test_steps_equal_those_of_the_package(base: str, steps: int, shifts: tuple[dict[str, Any], ...]) -> None:
    """The agent reaches a goal, enters a hazard, pushes a vase."""
    difference = compare(base, APPROACHES, steps, *shifts)
    assert difference["reached"].any()
    costs = difference["cost"].sum(0)
    assert costs[list(APPROACHES).index("hazard0")] > 0
    assert (costs[list(APPROACHES).index("vase0")] > 0) == ("Goal2" in base), "vases cost something in level 2 only"
    assert np.array_equal(difference["cost"], difference["expected_cost"])
    assert difference["reward"].max() < 1e-5
    observation = difference["observation"]
    kind = np.array(parts(base))
    lidar, accelerometer = np.char.endswith(kind, "lidar"), kind == "accelerometer"
    assert np.quantile(observation[..., lidar], 0.99) < 1e-5
    assert np.median(observation[..., accelerometer]) < 1e-4
    assert observation.max() < 1e-3


def test_a_task_without_hazards_and_vases_equals_the_packages() -> None:
    difference = compare("SafetyPointGoal0-v0", {"goal": APPROACHES["goal"]}, 8, {})
    assert difference["reached"].any()
    assert difference["reward"].max() < 1e-5
    assert difference["observation"].max() < 1e-4


@pytest.mark.parametrize("base", [POINT, pytest.param(CAR, marks=pytest.mark.slow)])
def test_the_first_observation_is_that_of_the_state(base: str) -> None:
    plan = blueprint(base)
    worlds = build(replace(plan, task=replace(plan.task, physics_steps=0)), each=3)  # a step leaves the state as it is
    first = worlds.reset()
    observation = worlds.move(torch.zeros(3, 2))[0]
    sensed = 0 if base == POINT else 3  # the acceleration of Car's first contacts depends on rounding
    assert torch.allclose(first[:, sensed:], observation[:, sensed:], atol=2e-5)
    assert len(torch.unique(first, dim=0)) == 3


def test_each_world_has_its_own_shift() -> None:
    shifts: tuple[dict[str, Any], ...] = ({}, {"gear": 3.0}, {"mass": 2.0}, {"damping": 3.0})
    worlds = build(*(blueprint(POINT, **shift) for shift in shifts))
    worlds.reset()
    start = worlds.places[:, AGENT].clone()
    for _ in range(5):
        worlds.move(torch.tensor([[1.0, 0.0]] * 4))
    plain, strong, heavy, damped = (worlds.places[:, AGENT] - start).norm(dim=1).tolist()
    assert strong > 2.5 * plain
    assert heavy < 0.6 * plain
    assert 0.6 * plain < damped < plain


def test_worlds_have_hazards_of_their_own_number_and_size() -> None:
    """As many hazards as a world has, and no padding, are seen and cost something."""
    few, many = blueprint(hazards=1), blueprint(hazards=20)
    worlds = build(replace(few, hazard_size=1.0), replace(many, hazard_size=1.0), each=20)
    worlds.reset()
    worlds.places[:, FIRST_HAZARD] += 10.0  # out of the lidar's reach
    observation, _, _, extras = worlds.move(torch.zeros(40, 2))
    column = parts(POINT).index("hazards_lidar")
    seen = (observation[:, column : column + 16] > 0.0).any(1)
    assert not seen[:20].any()
    assert seen[20:].all()
    assert extras["cost"][:20].sum() == 0.0
    assert extras["cost"][20:].sum() > 0.0


def test_costs_add_up_over_an_episode() -> None:
    worlds = build(replace(blueprint(), hazard_size=10.0, time_limit=3), each=2)
    worlds.reset()
    steps = [worlds.step(torch.zeros(2, 2)) for _ in range(5)]
    assert [step.extras["cost"].tolist() for step in steps] == [[1.0, 1.0]] * 5
    assert [step.extras["episode_cost"][0].item() for step in steps] == [1.0, 2.0, 3.0, 1.0, 2.0]
    assert [step.truncated[0].item() for step in steps] == [False, False, True, False, False]


def test_a_restart_leaves_other_worlds_alone() -> None:
    worlds = build(blueprint(), each=3)
    worlds.reset()
    worlds.move(torch.ones(3, 2))
    qpos, places = worlds.physics.field("qpos"), worlds.places
    before = qpos.clone(), places.clone()
    worlds.restart(torch.tensor([False, True, False]))
    assert torch.equal(qpos[[0, 2]], before[0][[0, 2]])
    assert torch.equal(places[[0, 2]], before[1][[0, 2]])
    assert not torch.equal(places[1], before[1][1])
    assert torch.equal(qpos[1, :2], places[1, AGENT])


def test_a_seed_repeats_a_run() -> None:
    plan = blueprint()
    one, same, other = build(plan, each=2, seed=3), build(plan, each=2, seed=3), build(plan, each=2, seed=4)
    first = one.reset()
    assert torch.equal(first, same.reset())
    assert not torch.equal(first, other.reset())
    assert torch.equal(one.step(torch.ones(2, 2)).observation, same.step(torch.ones(2, 2)).observation)


def test_a_room_that_is_too_small_is_reported() -> None:
    plan = blueprint()
    crowded = replace(plan, task=replace(plan.task, room=replace(plan.task.room, hazard=0.6)))
    worlds = build(crowded)
    worlds.reset()
    with pytest.raises(SimulationError, match="no room for all objects"):
        worlds.check()


@pytest.mark.parametrize(("shift", "message"), [({"level": 2}, "level"), ({"floor_friction": 0.5}, "geom_priority")])
def test_worlds_that_differ_in_structure_are_refused(shift: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        build(blueprint(), blueprint(**shift))


def test_other_tasks_are_refused_by_name() -> None:
    with pytest.raises(TaskError, match=r"SafetyPointPush1-v0: .*SafetyPointGoal0-v0.*Use another vec"):
        NavigationWorlds.blueprint(SafetyShift(), "SafetyPointPush1-v0")


def test_worlds_are_built_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = pickle.dumps(blueprint())
    for name in [name for name in sys.modules if name.partition(".")[0] == "safety_gymnasium"]:
        monkeypatch.setitem(sys.modules, name, None)
    worlds = NavigationWorlds([pickle.loads(pickled)], np.zeros(2, int), "cpu")
    assert worlds.reset().shape == (2, 60)
