"""Names of the entries of MuJoCo environments, from joints, bodies and actuators of the compiled model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

from daft_rl.envs.mujoco.model import element_names
from daft_rl.envs.mujoco.rules import RULES
from daft_rl.envs.names import Names, UnknownNamesError, indexed

__all__ = ["actuator_names", "body_names", "infer_names", "position_names", "velocity_names"]

FREE, BALL = int(mujoco.mjtJoint.mjJNT_FREE), int(mujoco.mjtJoint.mjJNT_BALL)


def body_names(model: mujoco.MjModel) -> list[str]:
    """Names of bodies. One without a name is named after its first joint, or else by its number."""
    joints = element_names(model, mujoco.mjtObj.mjOBJ_JOINT, model.njnt)
    names = element_names(model, mujoco.mjtObj.mjOBJ_BODY, model.nbody)
    for i in range(model.nbody):
        # a number changes when another body comes or goes
        if not model.body(i).name and model.body_jntnum[i]:
            names[i] = joints[model.body_jntadr[i]]
    return names


def _joint_names(model: mujoco.MjModel, kind: str, of_free: list[str], of_ball: list[str]) -> list[str]:
    """Names of the entries of all joints. Those of a free joint are named after the body that it carries."""
    joints, bodies = element_names(model, mujoco.mjtObj.mjOBJ_JOINT, model.njnt), body_names(model)
    names: list[str] = []
    for i, joint in enumerate(joints):
        if model.jnt_type[i] == FREE:
            names += [f"{bodies[model.jnt_bodyid[i]]}.{axis}" for axis in of_free]
        elif model.jnt_type[i] == BALL:
            names += [f"{joint}.{axis}" for axis in of_ball]
        else:
            names.append(f"{joint}.{kind}")
    return names


def position_names(model: mujoco.MjModel) -> list[str]:
    """Names of ``qpos``: ``torso.z``, ``torso.qw``, ``hip_1.position``."""
    return _joint_names(model, "position", ["x", "y", "z", "qw", "qx", "qy", "qz"], ["qw", "qx", "qy", "qz"])


def velocity_names(model: mujoco.MjModel) -> list[str]:
    """Names of ``qvel``: ``torso.vx``, ``torso.wx`` (rotation), ``hip_1.velocity``."""
    return _joint_names(model, "velocity", ["vx", "vy", "vz", "wx", "wy", "wz"], ["wx", "wy", "wz"])


def actuator_names(model: mujoco.MjModel) -> list[str]:
    """Names of actuators: that of the joint that each drives, if it is the only one there; else its own."""
    joints = element_names(model, mujoco.mjtObj.mjOBJ_JOINT, model.njnt)
    own = element_names(model, mujoco.mjtObj.mjOBJ_ACTUATOR, model.nu)
    driven = [
        joints[model.actuator_trnid[i, 0]] if model.actuator_trntype[i] == mujoco.mjtTrn.mjTRN_JOINT else own[i]
        for i in range(model.nu)
    ]
    return [name if driven.count(name) == 1 else own[i] for i, name in enumerate(driven)]


def _of_bodies(kind: str, size: int) -> Callable[[mujoco.MjModel], list[str]]:
    return lambda model: [entry for body in body_names(model) for entry in indexed(f"{body}.{kind}", size)]


def _drive_names(model: mujoco.MjModel) -> list[str]:
    """Names of forces on the degrees of freedom: ``hip_1.drive``."""
    return [f"{name.removesuffix('.velocity')}.drive" for name in velocity_names(model)]


FIELDS: dict[str, Callable[[mujoco.MjModel], list[str]]] = {
    "qpos": position_names,
    "qvel": velocity_names,
    "cfrc_ext": _of_bodies("force", 6),
    "cinert": _of_bodies("inertia", 10),
    "cvel": _of_bodies("motion", 6),
    "qfrc_actuator": _drive_names,
}
"""Array of ``MjData`` that is observed -> names of its entries."""


def infer_names(core: Any) -> Names:
    """The names of a MuJoCo environment without wrappers.

    Gymnasium's tasks that have rules (:mod:`daft_rl.envs.mujoco.rules`) tell what they observe. Any other observation,
    such as that of a class derived from them with an own ``_get_obs``, must be ``qpos`` without its first entries, and
    ``qvel``, as its values show.

    :param core: an environment with ``model`` and ``data``
    :raises UnknownNamesError: it observes something else
    """
    model: Any = core.model
    task: Any = next((cls for cls in type(core).__mro__ if cls in RULES), None)
    if task is None or type(core)._get_obs is not task._get_obs:
        observation = position_names(model)[_hidden_positions(core) :] + velocity_names(model)
    else:
        rules = RULES[task]
        given = rules.read_arguments(core)
        observation = position_names(model)[given.hidden :] + velocity_names(model)
        for field in given.included:
            observation += FIELDS[field](model)[rules.optional[field] :]
    return Names(tuple(observation), tuple(actuator_names(model)))


def _hidden_positions(core: Any) -> int:
    """How many leading positions an environment hides.

    :raises UnknownNamesError: it observes something other than positions and velocities
    """
    observation, _ = core.reset(seed=0)
    core_data, size = core.data, np.shape(observation)
    hidden = core.model.nq + core.model.nv - (size[0] if len(size) == 1 else 0)
    if 0 <= hidden < core.model.nq:
        expected = np.concatenate([core_data.qpos[hidden:], core_data.qvel])
        if np.allclose(observation, expected, atol=1e-6):
            return hidden
    raise UnknownNamesError(
        f"{type(core).__name__} observes more than positions and velocities of its model, so its entries have no known "
        "names. Give the environment the attributes observation_names and action_names, lists of texts."
    )
