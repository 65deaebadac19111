"""Kernels of Wipe: where dirt lies, and what touches."""

from __future__ import annotations

import warp as wp

__all__ = ["count_contacts", "draw_dirt"]

STEP = wp.constant(0.005)
"""Distance of neighbouring pieces of dirt (m)."""
STRAIGHT = wp.constant(0.7)
"""Probability that the line goes straight on."""
BEND = wp.constant(0.5)
"""Standard deviation of a turn (rad)."""

wp.set_module_options({"enable_backward": False})


@wp.kernel
def draw_dirt(
    seed: wp.array[int],
    table: wp.array[wp.vec3],
    spread: wp.array[wp.vec2],
    second_line: wp.array[int],
    markers: wp.array2d[wp.vec3],
):
    """Draw random lines of dirt as robosuite's ``WipeArena`` does: one, or from ``second_line`` on another one."""
    world = wp.tid()
    random = wp.rand_init(seed[world])
    most = spread[world]
    direction = float(0.0)  # noqa: UP018, Warp needs a variable
    place, following = wp.vec2(), wp.vec2()
    for i in range(markers.shape[1]):
        if i == 0 or i == second_line[world]:
            direction = wp.randf(random, -wp.pi, wp.pi)
            place = wp.vec2(wp.randf(random, -most[0], most[0]), wp.randf(random, -most[1], most[1]))
        markers[world, i] = table[world] + wp.vec3(place[0], place[1], 0.0)
        if wp.randf(random) > STRAIGHT:
            direction += BEND * wp.randn(random)
        following = place + STEP * wp.vec2(wp.sin(direction), wp.cos(direction))
        while wp.abs(following[0]) >= most[0] or wp.abs(following[1]) >= most[1]:
            direction += BEND * wp.randn(random)
            following = place + STEP * wp.vec2(wp.sin(direction), wp.cos(direction))
        place = following


@wp.kernel
def count_contacts(
    nacon: wp.array[int],
    worldid: wp.array[int],
    geom: wp.array[wp.vec2i],
    is_arm: wp.array[int],
    contacts: wp.array[int],
    of_arm: wp.array[int],
):
    """Count the contacts of each world, and those of the arm. The array of contacts is shared by all worlds."""
    contact = wp.tid()
    if contact >= nacon[0]:
        return
    pair, world = geom[contact], worldid[contact]
    wp.atomic_add(contacts, world, 1)
    if is_arm[pair[0]] + is_arm[pair[1]] > 0:
        wp.atomic_add(of_arm, world, 1)
