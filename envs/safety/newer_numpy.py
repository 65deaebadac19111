"""What newer versions of NumPy refuse in Safety-Gymnasium 1.0.0: arrays of one element in the place of numbers."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from gymnasium.spaces import Box

__all__ = ["accept_newer_numpy"]


def accept_newer_numpy(base_agent: Any) -> None:
    """Replace what NumPy 2.3 and later refuse. The values are the same.

    :param base_agent: the package's module of this name
    """
    base_agent.float = lambda value: np.asarray(value, np.float64).item()
    base_agent.BaseAgent._init_jnt_sensors = _find_sensors
    base_agent.BaseAgent._build_action_space = _action_space


def _action_space(agent: Any) -> Box:
    """The package gives bounds of another type than the space, and NumPy 2 warns of an overflow."""
    low, high = agent.engine.model.actuator_ctrlrange.astype(np.float32).astype(np.float64).T
    return Box(low, high, dtype=np.float64)


def _find_sensors(agent: Any) -> None:
    """Fill the agent's ``sensor_info``."""
    model, info = agent.engine.model, agent.sensor_info
    hinge, ball = mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_BALL
    of_joints = {
        (hinge, mujoco.mjtSensor.mjSENS_JOINTPOS): info.hinge_pos_names,
        (hinge, mujoco.mjtSensor.mjSENS_JOINTVEL): info.hinge_vel_names,
        (ball, mujoco.mjtSensor.mjSENS_BALLQUAT): info.ballquat_names,
        (ball, mujoco.mjtSensor.mjSENS_BALLANGVEL): info.ballangvel_names,
    }
    for index in range(model.nsensor):
        name, kind, of = model.sensor(index).name, model.sensor_objtype[index], model.sensor_objid[index]
        info.sensor_dim[name] = model.sensor_dim[index]
        if kind == mujoco.mjtObj.mjOBJ_JOINT:
            of_joints.get((model.jnt_type[of], model.sensor_type[index]), []).append(name)
        elif kind == mujoco.mjtObj.mjOBJ_SITE and name == "agent_pos":
            info.freejoint_pos_name = name
        elif kind == mujoco.mjtObj.mjOBJ_SITE and name == "agent_qvel":
            info.freejoint_qvel_name = name
