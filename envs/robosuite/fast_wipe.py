"""Wipe's loops over a hundred markers and all contacts, as array operations with the same results."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FastWipe"]

JOINT_LIMIT_TOLERANCE = 0.1
"""Radians, as in robosuite's ``Robot.check_q_limits``."""
SENSORS = ("force_ee", "torque_ee")


class FastWipe:
    """Replaces slow methods on one instance of robosuite's Wipe and on its robot.

    :param env: robosuite's Wipe
    """

    def __init__(self, env: Any) -> None:
        self.env, self.robot = env, env.robots[0]
        self.model, self.data = env.sim.model._model, env.sim.data._data
        self.markers = list(env.model.mujoco_arena.markers)
        self.number = {id(marker): number for number, marker in enumerate(self.markers)}
        self.bodies = np.array([self.model.body(marker.root_body).id for marker in self.markers])
        self.corners = [self.model.geom(name).id for name in self.robot.gripper["right"].important_geoms["corners"]]
        self.is_robot = np.zeros(self.model.ngeom, bool)
        self.is_robot[[self.model.geom(name).id for name in self.robot.robot_model.contact_geoms]] = True
        self.joints = self.robot._ref_joint_pos_indexes
        low, high = self.model.jnt_range[self.robot._ref_joint_indexes].T
        self.low = np.where(low == high, -np.inf, low + JOINT_LIMIT_TOLERANCE)
        self.high = np.where(low == high, np.inf, high - JOINT_LIMIT_TOLERANCE)
        self.sensors = [self.robot.gripper["right"].important_sensors[kind] for kind in SENSORS]
        sensordata = self.data.sensordata
        addresses = {name: self.model.sensor(name).adr[0] for name in self.sensors}
        self.force = sensordata[addresses[self.sensors[0]] :][:3]  # a view of MuJoCo's memory
        self.remaining, self._wiped_count = np.arange(len(self.markers)), -1

        self._slow_active_markers = env._get_active_markers
        self._slow_check_contact = env.check_contact
        env._get_wipe_information = self.information
        env._get_active_markers = self.active_markers
        env.check_contact = self.check_contact
        self.robot.check_q_limits = self.near_joint_limit
        self.robot.get_sensor_measurement = lambda name: sensordata[addresses[name] : addresses[name] + 3].copy()

    def _update_remaining(self) -> None:
        wiped = self.env.wiped_markers
        if len(wiped) != self._wiped_count:
            left = np.ones(len(self.markers), bool)
            left[[self.number[id(marker)] for marker in wiped]] = False
            self.remaining, self._wiped_count = np.flatnonzero(left), len(wiped)

    def information(self) -> tuple[float, NDArray[Any], NDArray[Any]]:
        """Wipe's ``_get_wipe_information``: radius and centroid of the dirt, and the vector from the hand to it."""
        self._update_remaining()
        if not len(self.remaining):
            return 0, np.zeros(3), np.zeros(3)
        places = self.data.xpos[self.bodies[self.remaining]]
        centroid = np.add.reduce(places, axis=0)  # adds row after row, as a loop does
        centroid /= len(places)
        away = places - centroid
        radius = np.sqrt(np.add.reduce(away * away, axis=1).max())
        return radius, centroid, centroid - self.data.site_xpos[self.robot.eef_site_id["right"]]

    def active_markers(self, corner_names: list[str]) -> list[Any]:
        """Wipe's ``_get_active_markers``, called only for the remaining dirt near the wiper."""
        if not self.data.ncon:
            return []
        self._update_remaining()
        corners = self.data.geom_xpos[self.corners]
        origin = corners[1]
        first, second = corners[0] - origin, corners[3] - origin
        normal = np.cross(first / np.linalg.norm(first), second / np.linalg.norm(second))
        offsets = self.data.xpos[self.bodies[self.remaining]] - origin
        height = offsets @ (normal / np.linalg.norm(normal))
        reach = np.linalg.norm(first) + np.linalg.norm(second)  # an upper bound: robosuite decides
        near = (height > -1e-6) & (height < 0.02 + 1e-6) & (np.abs(offsets).max(axis=1) < reach)
        arena = self.env.model.mujoco_arena
        arena.markers = [self.markers[number] for number in self.remaining[near]]
        try:
            return self._slow_active_markers(corner_names) if arena.markers else []
        finally:
            arena.markers = self.markers

    def presses(self) -> bool:
        """Wipe's ``_has_gripper_contact``: whether the force on the wiper exceeds a threshold."""
        return bool(np.linalg.norm(self.force - self.env.ee_force_bias["right"]) > self.env.contact_threshold)

    def check_contact(self, geoms: Any, others: Any = None) -> bool:
        """robosuite's ``check_contact``, fast for contacts of the arm with anything."""
        if geoms is not self.robot.robot_model or others is not None:
            return self._slow_check_contact(geoms, others)
        return bool(self.is_robot[self.data.contact.geom].any())

    def near_joint_limit(self) -> bool:
        """The robot's ``check_q_limits``, without a warning at every step."""
        joints = self.data.qpos[self.joints]
        return not bool(np.all((self.low < joints) & (joints < self.high)))
