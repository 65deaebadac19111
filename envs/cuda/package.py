"""MuJoCo Warp, imported once, with what differs from MuJoCo's C code mended."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import warp as wp

from daft_rl.envs.dependencies import require_installed

__all__ = ["import_mujoco_warp"]


@wp.func
def plane_capsule(
    plane_normal: wp.vec3,
    plane_pos: wp.vec3,
    capsule_pos: wp.vec3,
    capsule_axis: wp.vec3,
    capsule_radius: float,
    capsule_half_length: float,
):
    """Contacts of a capsule with a plane, whose frames follow the capsule's axis at every angle, as in MuJoCo's C code.

    MuJoCo Warp takes a fixed tangent for capsules that stand steeper than 60 degrees (mujoco issue #2774). With
    pyramidal friction cones that changes forces.
    """
    along = capsule_axis - plane_normal * wp.dot(plane_normal, capsule_axis)
    length = wp.length(along)
    tangent = wp.vec3(0.0, 0.0, 1.0)
    if length > 1.0e-6:
        tangent = along / length
    elif plane_normal[1] > -0.5 and plane_normal[1] < 0.5:
        tangent = wp.vec3(0.0, 1.0, 0.0)
    other = wp.cross(plane_normal, tangent)
    frame = wp.matrix_from_rows(plane_normal, tangent, other)
    end = capsule_axis * capsule_half_length
    position_1 = capsule_pos + end
    position_2 = capsule_pos - end
    distance_1 = wp.dot(position_1 - plane_pos, plane_normal) - capsule_radius
    distance_2 = wp.dot(position_2 - plane_pos, plane_normal) - capsule_radius
    contact_1 = position_1 - plane_normal * (capsule_radius + 0.5 * distance_1)
    contact_2 = position_2 - plane_normal * (capsule_radius + 0.5 * distance_2)
    return wp.vec2(distance_1, distance_2), wp.matrix_from_rows(contact_1, contact_2), frame


def _forget_other_models(collisions: Any) -> None:
    """Let the kernel of contacts have the pairs of its own model's geoms only.

    MuJoCo Warp adds up the pairs of all models of a process: each further task would compile a larger kernel anew,
    and which one would depend on the order of the tasks.
    """
    find_contacts = collisions.primitive_narrowphase

    def find_contacts_of_model(*args: Any) -> None:
        collisions._PRIMITIVE_COLLISION_TYPES, collisions._PRIMITIVE_COLLISION_FUNC = [], []
        find_contacts(*args)

    driver: Any = import_module("mujoco_warp._src.collision_driver")
    driver.primitive_narrowphase = find_contacts_of_model


@cache
def import_mujoco_warp() -> Any:
    """Import MuJoCo Warp, and replace its contacts of planes with capsules before any kernel is built.

    :raises TaskError: it is not installed; the message has the command that installs it
    """
    require_installed("mujoco_warp")
    wp.config.log_level = wp.LOG_WARNING
    wp.init()
    mujoco_warp = import_module("mujoco_warp")
    collisions: Any = import_module("mujoco_warp._src.collision_primitive")
    collisions.plane_capsule = plane_capsule
    _forget_other_models(collisions)
    return mujoco_warp
