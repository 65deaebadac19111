"""Layouts are drawn as Safety-Gymnasium draws them: equal distributions, distances kept, new goals where free."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import ks_2samp

pytest.importorskip("mujoco_warp", reason="worlds need the extra `cuda`")

import warp as wp

from daft_rl.envs.cuda.layouts import AGENT, FIRST_HAZARD, GOAL, DeviceRoom, Room, draw_goal, draw_layout
from daft_rl.envs.safety.environment import make_safety
from daft_rl.envs.safety.shift import SafetyShift

pytestmark = pytest.mark.skipif(find_spec("safety_gymnasium") is None, reason="safety_gymnasium is not installed")
ROOM = Room((-1.5, -1.5, 1.5, 1.5), margin=0.0, agent=0.4, goal=0.305, hazard=0.18, vase=0.15)
"""Of level 1."""

wp.set_module_options({"enable_backward": False})


@wp.kernel
def draw(
    room: DeviceRoom,
    hazards: int,
    goal_alone: bool,
    entropy: wp.array(dtype=int),
    places: wp.array2d(dtype=wp.vec2),
    found: wp.array(dtype=bool),
):
    world = wp.tid()
    objects = places.shape[1]
    if goal_alone:
        found[world] = draw_goal(world, entropy[world], objects, hazards, room, places)
    else:
        found[world] = draw_layout(world, entropy[world], objects, hazards, room, places)


def run(room: Room, hazards: int, places: torch.Tensor, goal_alone: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
    """Draw in every world.

    :return: places, shape ``(worlds, objects, 2)``, and whether they were found
    """
    wp.init()
    found = torch.zeros(len(places), dtype=torch.bool)
    entropy = torch.randint(2**31 - 1, (len(places),), dtype=torch.int32)
    arrays = [wp.from_torch(entropy), wp.from_torch(places, dtype=wp.vec2), wp.from_torch(found)]
    wp.launch(draw, len(places), inputs=[room.on_device(), hazards, goal_alone, *arrays], device="cpu")
    return places.numpy(), found.numpy()


@pytest.fixture(scope="module")
def env() -> Any:
    made: Any = make_safety("SafetyPointGoal1-v0", SafetyShift()).unwrapped
    made.reset(seed=0)
    return made


def features(places: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Numbers that would differ if anything about the sampling differed."""
    agent, goal, hazards, vase = places[:, AGENT], places[:, GOAL], places[:, FIRST_HAZARD:-1], places[:, -1]

    def to_hazards(place: NDArray[Any]) -> NDArray[Any]:
        return np.linalg.norm(hazards - place[:, None], axis=-1)

    return {
        "agent": agent[:, 0],
        "goal": goal[:, 1],
        "goal to agent": np.linalg.norm(goal - agent, axis=1),
        "first hazard": np.abs(hazards[:, 0]).max(1),
        "last hazard": np.abs(hazards[:, -1]).max(1),
        "hazard next to agent": to_hazards(agent).min(1),
        "hazard next to goal": to_hazards(goal).min(1),
        "vase": np.linalg.norm(vase, axis=1),
        "hazard next to vase": to_hazards(vase).min(1),
    }


def test_layouts_are_distributed_as_the_packages(env: Any) -> None:
    expected = []
    for _ in range(500):
        layout = env.task.world_info.layout = env.task.random_generator.build_layout()  # a reset that compiles nothing
        env.task.build_goal_position()
        expected.append(list(layout.values()))
        order = list(layout)
    expected_places = np.array([[*row[:1], row[-1], *row[1:-1]] for row in expected])  # the new goal is last
    assert order[-1] == "goal"
    places, found = run(ROOM, 8, torch.zeros(4000, 11, 2))
    assert found.all()
    ours, theirs = features(places), features(expected_places)
    levels = {name: ks_2samp(ours[name], theirs[name]).pvalue for name in ours}
    assert min(levels.values()) > 0.003, levels  # nine comparisons


def test_objects_keep_their_distance() -> None:
    radii = np.array([ROOM.agent, ROOM.goal, *[ROOM.hazard] * 20, ROOM.vase])
    places, found = run(replace(ROOM, margin=0.01), 20, torch.zeros(50, 23, 2))
    assert found.all()
    distance = np.linalg.norm(places[:, :, None] - places[:, None], axis=-1)
    allowed = radii[:, None] + radii + 0.01
    np.fill_diagonal(allowed, 0.0)
    assert (distance > allowed - 1e-6).all()
    assert (np.abs(places) <= 1.5 - radii[:, None] + 1e-6).all()


def test_a_new_goal_keeps_away_from_where_the_agent_is_now(env: Any) -> None:
    env.reset(seed=3)
    layout = env.task.world_info.layout
    layout["agent"] = layout["goal"].copy()
    expected = []
    for _ in range(600):
        env.task.build_goal_position()
        expected.append(layout["goal"].copy())
    others = [place for name, place in layout.items() if name not in ("agent", "goal")]
    start = torch.tensor(np.array([layout["agent"], layout["agent"], *others]), dtype=torch.float32)
    places, found = run(ROOM, 8, start.repeat(2000, 1, 1), goal_alone=True)
    assert found.all()
    assert np.array_equal(np.delete(places, GOAL, axis=1), np.tile(np.delete(start, GOAL, axis=0), (2000, 1, 1)))
    assert np.linalg.norm(places[:, GOAL] - places[:, AGENT], axis=1).min() >= 0.705 - 1e-6
    for axis in range(2):
        assert ks_2samp(places[:, GOAL, axis], np.array(expected)[:, axis]).pvalue > 0.003


def test_a_goal_that_finds_no_place_stays() -> None:
    start = torch.zeros(3, 2, 2)
    places, found = run(replace(ROOM, agent=3.0), 0, start, goal_alone=True)
    assert not found.any()
    assert not places.any()
