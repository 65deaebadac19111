"""Where objects of a navigation task lie: Safety-Gymnasium's rejection sampling as device functions.

Each world draws for itself, in the package's order and with its numbers of attempts, so no bank of layouts has to be
kept and refreshed. A layout is a row of places: the agent, the goal, the hazards, the vases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import warp as wp

__all__ = ["AGENT", "FIRST_HAZARD", "GOAL", "DeviceRoom", "Room", "draw_goal", "draw_layout", "draw_yaw"]

wp.set_module_options({"enable_backward": False})

AGENT, GOAL, FIRST_HAZARD = 0, 1, 2
"""Columns of a layout. Vases follow the hazards, of which each world may have another number."""
ATTEMPTS = wp.constant(100)
"""The package draws an object this many times before it begins a layout again,"""
BEGINNINGS = wp.constant(10_000)
"""begins a layout this many times,"""
GOAL_ATTEMPTS = wp.constant(10_000)
"""and draws a new goal this many times before it gives up."""


@wp.struct
class DeviceRoom:
    """:class:`Room` as kernels take it."""

    low: wp.vec2
    high: wp.vec2
    margin: float
    agent: float
    goal: float
    hazard: float
    vase: float


@dataclass(frozen=True)
class Room:
    """Where objects may lie. Metres."""

    extents: tuple[float, float, float, float]
    """Smallest x and y, largest x and y."""
    margin: float
    """Added to the sum of two objects' radii."""
    agent: float
    """Radius around the agent that is kept free, likewise for the others."""
    goal: float
    hazard: float = 0.0
    vase: float = 0.0

    def on_device(self) -> Any:
        """The structure that kernels take."""
        room = DeviceRoom()
        room.low, room.high = wp.vec2(*self.extents[:2]), wp.vec2(*self.extents[2:])
        for name in ("margin", "agent", "goal", "hazard", "vase"):
            setattr(room, name, getattr(self, name))
        return room


@wp.func
def radius(column: int, hazards: int, room: DeviceRoom) -> float:
    """The radius around an object that is kept free."""
    if column == AGENT:
        return room.agent
    if column == GOAL:
        return room.goal
    if column < FIRST_HAZARD + hazards:
        return room.hazard
    return room.vase


@wp.func
def draw_place(seed: int, attempt: int, kept_free: float, room: DeviceRoom) -> wp.vec2:
    """A place anywhere in the room."""
    state = wp.rand_init(seed, attempt)
    x = wp.randf(state, room.low[0] + kept_free, room.high[0] - kept_free)
    y = wp.randf(state, room.low[1] + kept_free, room.high[1] - kept_free)
    return wp.vec2(x, y)


@wp.func
def draw_yaw(seed: int, column: int) -> float:
    """The angle of an object about the vertical axis, radians."""
    state = wp.rand_init(seed, -1 - column)  # places are drawn with numbers of at least 0
    return wp.randf(state, 0.0, 2.0 * wp.pi)


@wp.func
def is_free(
    place: wp.vec2,
    column: int,
    world: int,
    objects: int,
    hazards: int,
    room: DeviceRoom,
    places: wp.array2d(dtype=wp.vec2),
) -> bool:
    """Whether an object would keep away from the first ``objects`` of a layout."""
    kept_free = radius(column, hazards, room) + room.margin
    for other in range(objects):
        too_close = wp.length(place - places[world, other]) < kept_free + radius(other, hazards, room)
        if too_close and other != column:
            return False
    return True


@wp.func
def draw_goal(
    world: int, seed: int, objects: int, hazards: int, room: DeviceRoom, places: wp.array2d(dtype=wp.vec2)
) -> bool:
    """Move the goal to a place that is free now. If none is found, leave it and return false."""
    for attempt in range(GOAL_ATTEMPTS):
        place = draw_place(seed, attempt, room.goal, room)
        if is_free(place, GOAL, world, objects, hazards, room, places):
            places[world, GOAL] = place
            return True
    return False


@wp.func
def draw_layout(
    world: int, seed: int, objects: int, hazards: int, room: DeviceRoom, places: wp.array2d(dtype=wp.vec2)
) -> bool:
    """Draw the places of all objects, one after the other. Return false if the package would give up."""
    column, attempt, failed, beginnings = wp.int32(0), wp.int32(0), wp.int32(0), wp.int32(0)  # change in a loop
    while column < objects and beginnings < BEGINNINGS:
        place = draw_place(seed, attempt, radius(column, hazards, room), room)
        attempt += 1
        if is_free(place, column, world, column, hazards, room, places):
            places[world, column] = place
            column += 1
            failed = 0
        else:
            failed += 1
        if failed == ATTEMPTS:
            column = 0
            failed = 0
            beginnings += 1
    draw_goal(world, seed + 1, objects, hazards, room, places)  # the package draws it again, given all other places
    return column == objects
