"""Changes to MuJoCo models: sizes of limbs before compilation, everything else in the compiled model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from daft_rl.envs.mujoco.bodies import cut_off
from daft_rl.envs.mujoco.shift import MujocoShift
from daft_rl.envs.shift import Scale, resolve_pattern

__all__ = ["compile_body", "element_names", "scale_model", "shift_mujoco_model"]


def element_names(model: mujoco.MjModel, kind: mujoco.mjtObj, count: int) -> list[str]:
    """Names of a model's bodies, geoms, joints or actuators; ``body_3`` where the file names none."""
    return [mujoco.mj_id2name(model, kind, i) or f"{kind.name[6:].lower()}_{i}" for i in range(count)]


def _distance(geom: mujoco.MjsGeom, point: NDArray[Any]) -> float:
    """Distance from a point to the axis of a geom, or to its centre if the file gives no axis."""
    if not np.isfinite(geom.fromto[0]):
        return float(np.linalg.norm(point - geom.pos))
    start, end = np.split(np.asarray(geom.fromto), 2)
    along = np.clip((point - start) @ (end - start) / np.square(end - start).sum(), 0.0, 1.0)
    return float(np.linalg.norm(point - (start + along * (end - start))))


def compile_body(path: str, change: Callable[[mujoco.MjSpec], None] | None, shift: MujocoShift) -> mujoco.MjModel:
    """Compile a model file with another body, so that masses and inertias follow.

    :param path: of the MuJoCo XML file
    :param change: changes the body in place
    :param shift: what it cuts off and scales
    """
    spec = mujoco.MjSpec.from_file(path)
    if change is not None:
        change(spec)
    cut_off(spec, shift.without)
    _scale_limbs(spec, shift.limb_size)
    return spec.compile()


def _scale_limbs(spec: mujoco.MjSpec, scale: Scale) -> None:
    """
    :param scale: factors on the size of geoms
    """
    factors = resolve_pattern("limb_size", scale, [geom.name for geom in spec.geoms if geom.parent.name != "world"])
    for parent in {geom.parent.name: geom.parent for geom in spec.geoms if geom.name in factors}.values():
        for body in parent.bodies:
            nearest = min(parent.geoms, key=partial(_distance, point=body.pos))
            body.pos = np.asarray(body.pos) * factors.get(nearest.name, 1.0)
    for geom in spec.geoms:
        factor = factors.get(geom.name, 1.0)
        geom.size = np.asarray(geom.size) * factor
        geom.pos = np.asarray(geom.pos) * factor
        if np.isfinite(geom.fromto[0]):
            geom.fromto = np.asarray(geom.fromto) * factor


def scale_model(
    model: mujoco.MjModel,
    *,
    friction: Scale = 1.0,
    mass: Scale = 1.0,
    damping: Scale = 1.0,
    gear: Scale = 1.0,
    joint_range: Scale = 1.0,
) -> None:
    """Multiply fields of a compiled model, in place. The factors are those of :class:`MujocoShift`."""
    geoms = element_names(model, mujoco.mjtObj.mjOBJ_GEOM, model.ngeom)
    bodies = element_names(model, mujoco.mjtObj.mjOBJ_BODY, model.nbody)
    joints = element_names(model, mujoco.mjtObj.mjOBJ_JOINT, model.njnt)

    for name, factor in resolve_pattern("friction", friction, geoms).items():
        model.geom_friction[geoms.index(name)] *= factor
    masses = resolve_pattern("mass", mass, bodies[1:])
    for name, factor in masses.items():
        model.body_mass[bodies.index(name)] *= factor
        model.body_inertia[bodies.index(name)] *= factor
    for name, factor in resolve_pattern("damping", damping, joints).items():
        model.dof_damping[model.dof_jntid == joints.index(name)] *= factor

    actuators = {
        joints[model.actuator_trnid[i, 0]] if model.actuator_trntype[i] == mujoco.mjtTrn.mjTRN_JOINT else name: i
        for i, name in enumerate(element_names(model, mujoco.mjtObj.mjOBJ_ACTUATOR, model.nu))
    }
    for name, factor in resolve_pattern("gear", gear, actuators).items():
        model.actuator_gear[actuators[name]] *= factor

    limited = [name for name, flag in zip(joints, model.jnt_limited, strict=True) if flag]
    for name, factor in resolve_pattern("joint_range", joint_range, limited).items():
        joint = joints.index(name)
        low, high = model.jnt_range[joint]
        rest = np.clip(model.qpos0[model.jnt_qposadr[joint]], low, high)
        model.jnt_range[joint] = rest + factor * (np.array([low, high]) - rest)
    if masses:  # recompute the constants that MuJoCo derived from masses at compile time
        mujoco.mj_setConst(model, mujoco.MjData(model))


def shift_mujoco_model(model: mujoco.MjModel, shift: MujocoShift) -> None:
    """Apply a shift to a compiled model, in place. What changes the body is not part of it."""
    model.opt.gravity[:] *= shift.gravity
    if shift.density:
        model.opt.density = shift.density
        model.opt.wind[:] = shift.wind
    scale_model(
        model,
        friction=shift.friction,
        mass=shift.mass,
        damping=shift.damping,
        gear=shift.gear,
        joint_range=shift.joint_range,
    )
