"""Other bodies for Gymnasium's MuJoCo tasks, built from Gymnasium's own models.

The five-legged Ant and the three-legged HalfCheetah are those of QAvatar (arXiv 2603.12087).
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import mujoco

from daft_rl.errors import TaskError

__all__ = ["add_fifth_leg", "add_third_leg", "cut_off"]

CAPSULE, HINGE = mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtJoint.mjJNT_HINGE


def add_fifth_leg(spec: mujoco.MjSpec) -> None:
    """Give Ant a leg between its back legs, whose motors follow the eight others."""
    hip = spec.body("torso").add_body(name="fifth_leg")
    links = [hip, hip.add_body(name="aux_5", pos=[0, -0.28, 0])]
    links.append(links[1].add_body(pos=[0, -0.28, 0]))
    links[1].add_joint(name="hip_5", type=HINGE, axis=[0, 0, 1], range=[-10, 10])
    links[2].add_joint(name="ankle_5", type=HINGE, axis=[1, 1, 0], range=[30, 70])
    names = ("aux_5_geom", "fifth_leg_geom", "fifth_ankle_geom")
    for link, name, length in zip(links, names, (0.28, 0.28, 0.56), strict=True):
        link.add_geom(name=name, type=CAPSULE, fromto=[0, 0, 0, 0, -length, 0], size=[0.08, 0, 0])
    for joint in ("hip_5", "ankle_5"):
        _copy_actuator(spec, spec.actuators[0], joint)


def add_third_leg(spec: mujoco.MjSpec) -> None:
    """Give HalfCheetah a second back leg beside the first, whose motors follow the six others."""
    spec.body("bthigh").pos = [-0.5, -0.06, 0]
    parent, new = spec.body("torso"), {}
    for link in ("bthigh", "bshin", "bfoot"):
        body = spec.body(link)
        [joint], [geom] = body.joints, body.geoms
        parent = new[link] = parent.add_body(name=f"{link}2", pos=body.pos)
        parent.add_joint(
            name=f"{link}2", type=HINGE, axis=joint.axis, range=joint.range, damping=joint.damping,
            stiffness=joint.stiffness,
        )  # fmt: skip
        turned = [1, -1, 0, 3.8] if link == "bthigh" else geom.alt.axisangle  # the thigh is mirrored
        parent.add_geom(name=f"{link}2", type=CAPSULE, pos=geom.pos, axisangle=turned, size=geom.size, rgba=geom.rgba)
    new["bthigh"].pos = [-0.5, 0.06, 0]
    for actuator in [actuator for actuator in spec.actuators if actuator.name in new]:
        _copy_actuator(spec, actuator, f"{actuator.name}2")


def _copy_actuator(spec: mujoco.MjSpec, actuator: mujoco.MjsActuator, joint: str) -> None:
    """Add a motor on another joint. It is like ``actuator``."""
    spec.add_actuator(
        name=joint, target=joint, trntype=actuator.trntype, gear=actuator.gear, ctrllimited=actuator.ctrllimited,
        ctrlrange=actuator.ctrlrange,
    )  # fmt: skip


def cut_off(spec: mujoco.MjSpec, patterns: Sequence[str]) -> None:
    """Remove bodies, everything that hangs on them, and the motors that drive it.

    :param patterns: over names of bodies
    :raises TaskError: a pattern matches no body
    """
    for pattern in patterns:
        bodies = [body for body in spec.bodies[1:] if fnmatchcase(body.name, pattern)]
        if not bodies:
            names = ", ".join(body.name for body in spec.bodies[1:] if body.name)
            raise TaskError(f"shift.without: '{pattern}' matches no body. What exists: {names}.")
        for body in bodies:
            joints = {joint.name for joint in body.find_all("joint")}
            for actuator in [actuator for actuator in spec.actuators if actuator.target in joints]:
                spec.delete(actuator)
            spec.delete(body)
