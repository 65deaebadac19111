"""robosuite's own environments, built with shifted settings, and shifts of their compiled models."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import mujoco
import numpy as np

from daft_rl.envs.robosuite.package import import_robosuite
from daft_rl.envs.robosuite.shift import RobosuiteShift

__all__ = ["CONTROL_FREQUENCY", "build_sim_env", "shift_robosuite_model"]

CONTROL_FREQUENCY = 20
"""Actions per second. Each of them is 25 physics steps."""


def _controller(shift: RobosuiteShift) -> dict[str, Any]:
    """The configuration of the arm's controller, without entries for parts that the robot lacks."""
    from robosuite.controllers import load_composite_controller_config

    config: Any = load_composite_controller_config(controller="BASIC", robot=shift.robot)
    arm = config["body_parts"]["right"]
    arm["kp"] = arm["kp"] * shift.controller_gain
    arm["damping_ratio"] = arm["damping_ratio"] * shift.damping_ratio
    config["body_parts"] = {"right": arm}
    return config


def _wipe_config(shift: RobosuiteShift) -> dict[str, Any]:
    from robosuite.environments.manipulation.wipe import DEFAULT_WIPE_CONFIG

    config: dict[str, Any] = deepcopy(DEFAULT_WIPE_CONFIG)
    config["table_friction"] = [value * shift.table_friction for value in config["table_friction"]]
    config["table_height"] += shift.table_height
    config["line_width"] *= shift.line_width
    config["two_clusters"] = shift.two_clusters
    if shift.markers is not None:
        config["num_markers"] = shift.markers
    return config


def build_sim_env(base: str, shift: RobosuiteShift) -> Any:
    """Build robosuite's own environment with all changes but those of the compiled model.

    :param base: ``"Door"`` or ``"Wipe"``
    :param shift: what changes
    :raises TaskError: robosuite cannot be imported
    """
    robosuite = import_robosuite()
    task_settings = {"use_latch": shift.latch} if base == "Door" else {"task_config": _wipe_config(shift)}
    sim_env = robosuite.make(
        base,
        robots=shift.robot,
        controller_configs=_controller(shift),
        reward_shaping=True,
        control_freq=CONTROL_FREQUENCY,
        horizon=shift.horizon,
        ignore_done=True,  # Gymnasium's TimeLimit ends episodes
        hard_reset=False,  # a hard reset takes 0.14 s and loads an unshifted model
        use_camera_obs=False,
        has_renderer=False,
        has_offscreen_renderer=False,
        renderer="mujoco",
        seed=0,  # every instance starts with the same model
        **task_settings,
    )
    if base == "Door":
        sampler = sim_env.placement_initializer
        x, y, yaw = shift.door_offset
        sampler.reference_pos = np.asarray(sampler.reference_pos) + np.array([x, y, 0.0])
        sampler.rotation = tuple(angle + yaw for angle in sampler.rotation)
    return sim_env


def shift_robosuite_model(sim_env: Any, base: str, shift: RobosuiteShift) -> None:
    """Apply the shift to the compiled model, in place. Once is enough, since resets keep the model."""
    model = sim_env.sim.model._model
    robot = sim_env.robots[0]
    dofs = list(robot._ref_joint_vel_indexes)
    model.dof_damping[dofs] *= shift.arm_damping
    model.dof_frictionloss[dofs] *= shift.arm_friction
    factors = np.ones(model.nbody)
    prefix = robot.robot_model.naming_prefix
    factors[[body for body in range(model.nbody) if model.body(body).name.startswith(prefix)]] = shift.arm_mass
    if base == "Door":
        hinge = model.joint(sim_env.door.hinge_joint).dofadr[0]
        model.dof_damping[hinge] *= shift.hinge_damping
        model.dof_frictionloss[hinge] += shift.hinge_friction
        factors[model.body(sim_env.door.door_body).id] = shift.door_mass
    if not np.all(factors == 1.0):
        model.body_mass[:] *= factors
        model.body_inertia[:] *= factors[:, None]
        mujoco.mj_setConst(model, mujoco.MjData(model))  # recompute what MuJoCo derived from masses
