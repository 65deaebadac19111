"""Gymnasium's MuJoCo tasks (v5) and how their physics is shifted."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv

from daft_rl.envs.shift import Scale, Shift, check_number, resolve_pattern
from daft_rl.envs.wrappers import shift_interface
from daft_rl.errors import TaskError

__all__ = ["MujocoShift", "element_names", "make_mujoco", "scale_model", "shifted_class"]


@dataclass(frozen=True, kw_only=True)
class MujocoShift(Shift):
    """A change of a MuJoCo model. Factors are relative to the unshifted task; 1 changes nothing.

    Names are the model's own: bodies for ``mass``, geoms for ``friction`` and ``limb_size``, joints for
    ``damping``, ``gear`` and ``joint_range``. The levels of ODRL (Lyu et al., NeurIPS 2024, Datasets and
    Benchmarks) are named in ``configs/levels.yaml``.
    """

    gravity: float = 1.0
    """Factor on gravity."""
    friction: Scale = 1.0
    """Factor on all three friction coefficients of geoms. A contact takes the larger of its two geoms."""
    mass: Scale = 1.0
    """Factor on mass and inertia of bodies."""
    damping: Scale = 1.0
    """Factor on the damping of joints."""
    gear: Scale = 1.0
    """Factor on the gear (strength) of the actuator on a joint."""
    joint_range: Scale = 1.0
    """Factor on the range of limited joints, about their rest position."""
    limb_size: Scale = 1.0
    """Factor on length and radius of geoms; a body that is attached moves along with the nearest geom. Masses follow,
    but HalfCheetah's file fixes the total mass at 14 kg: there the rest of the body gets heavier as limbs shrink."""
    density: float = 0.0
    """Density of the medium (kg/m^3; air 1.2, water 1000). Without it wind has no effect."""
    wind: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0))
    """Velocity of the medium (m/s) along x, y, z."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("gravity", self.gravity, None)
        check_number("density", self.density, 0.0)
        for name in ("mass", "limb_size"):
            self._check_scale(name, positive=True)
        for name in ("friction", "damping", "gear", "joint_range"):
            self._check_scale(name, positive=False)
        wind = tuple(self.wind) if np.ndim(self.wind) == 1 else ()
        if len(wind) != 3:
            raise TaskError(f"shift.wind: expected three velocities (m/s), got {self.wind!r}.")
        object.__setattr__(self, "wind", tuple(check_number("wind", value, None) for value in wind))
        if any(self.wind) and not self.density:
            raise TaskError("shift.wind has no effect in a vacuum: set shift.density too (air 1.2 kg/m^3).")


def element_names(model: mujoco.MjModel, kind: mujoco.mjtObj, count: int) -> list[str]:
    """The names of a model's bodies, geoms, joints or actuators; ``body_3`` where the file gives none."""
    return [mujoco.mj_id2name(model, kind, i) or f"{kind.name[6:].lower()}_{i}" for i in range(count)]


def _distance(geom: mujoco.MjsGeom, point: np.ndarray) -> float:
    """From a point to the middle line of a geom, or to its centre if the file gives no line."""
    if not np.isfinite(geom.fromto[0]):
        return float(np.linalg.norm(point - geom.pos))
    start, end = np.split(np.asarray(geom.fromto), 2)
    along = np.clip((point - start) @ (end - start) / np.square(end - start).sum(), 0.0, 1.0)
    return float(np.linalg.norm(point - (start + along * (end - start))))


def _scale_limbs(path: str, scale: Scale) -> mujoco.MjModel:
    """Compile the model file with other limb sizes, so that masses and inertias follow."""
    spec = mujoco.MjSpec.from_file(path)
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
    return spec.compile()


def scale_model(
    model: mujoco.MjModel,
    *,
    friction: Scale = 1.0,
    mass: Scale = 1.0,
    damping: Scale = 1.0,
    gear: Scale = 1.0,
    joint_range: Scale = 1.0,
) -> None:
    """Multiply fields of a compiled model, in place. The arguments are those of :class:`MujocoShift`."""
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
    if masses:  # constants that MuJoCo derives from masses at compile time
        mujoco.mj_setConst(model, mujoco.MjData(model))


def _edit(model: mujoco.MjModel, shift: MujocoShift) -> None:
    """Apply everything but limb sizes to a compiled model, in place."""
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


def shifted_class(base: type[MujocoEnv]) -> type[MujocoEnv]:
    """A subclass of a Gymnasium MuJoCo environment whose constructor also takes a ``shift``."""

    class Shifted(base):  # type: ignore[valid-type, misc]
        def __init__(self, shift: MujocoShift, **kwargs: Any) -> None:
            self.shift = shift
            super().__init__(**kwargs)

        def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
            model, data = super()._initialize_simulation()
            if not self.shift.changes():
                return model, data
            if self.shift.limb_size != 1.0:
                offscreen = model.vis.global_.offwidth, model.vis.global_.offheight
                model = _scale_limbs(self.fullpath, self.shift.limb_size)
                model.vis.global_.offwidth, model.vis.global_.offheight = offscreen
            _edit(model, self.shift)
            return model, mujoco.MjData(model)

    Shifted.__name__ = Shifted.__qualname__ = f"Shifted{base.__name__}"
    return Shifted


def make_mujoco(base: str, shift: MujocoShift, **kwargs: Any) -> gym.Env:
    """The entry point of our registered MuJoCo tasks.

    :param base: ``module:Class`` of a Gymnasium MuJoCo environment
    :param shift: what changes
    :param kwargs: the environment's own keywords, ``render_mode`` among them
    """
    module, _, name = base.partition(":")
    cls: Any = shifted_class(getattr(import_module(module), name))
    if kwargs.get("render_mode") is not None:  # the default camera stays behind
        kwargs.setdefault("camera_name", "track")
    return shift_interface(cls(shift=shift, **kwargs), shift)
