"""robosuite's step with the same numbers in less time.

Three quarters of a step are Python code of the arm's controller, which runs 25 times per step. :class:`FastStep` runs
it with functions of MuJoCo and NumPy on fixed arrays, without looking up names. It computes once what is the same in
all 25 runs (goal in the world, gripper), and reads observations once. The linear algebra is robosuite's own, in the
same order, so observations and rewards are equal to the last bit (``tests/envs/test_robosuite.py``).

No installed file is edited: robosuite's ``reset`` stays in use, its ``step`` is not called. Left out is what neither
observation nor reward uses: robosuite's ``recent_*`` buffers except the forces, and its observables.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from daft_rl.envs.robosuite.fast_wipe import FastWipe

__all__ = ["FastStep"]


def _index(indices: list[int]) -> slice | NDArray[Any]:
    """A slice if possible, because NumPy copies it ten times faster than a list of indices."""
    first = indices[0] if len(indices) else 0
    if list(indices) == list(range(first, first + len(indices))):
        return slice(first, first + len(indices))
    return np.array(indices)


class FastStep:
    """Steps a robosuite environment with one fixed arm and the controller ``OSC_POSE``.

    :param sim_env: robosuite's Door or Wipe, with ``hard_reset=False`` and its default observables
    """

    def __init__(self, sim_env: Any) -> None:
        from robosuite.utils.control_utils import opspace_matrices
        from robosuite.utils.transform_utils import axisangle2quat, make_pose, mat2quat, pose_inv, quat2mat

        from daft_rl.envs.robosuite.kernels import desired_acceleration, limited_torques

        self._opspace, self._mat2quat, self._quat2mat = opspace_matrices, mat2quat, quat2mat
        self._axisangle2quat, self._make_pose, self._pose_inv = axisangle2quat, make_pose, pose_inv
        self._desired, self._limited = desired_acceleration, limited_torques
        self.env, self.robot = sim_env, sim_env.robots[0]
        model, data = sim_env.sim.model._model, sim_env.sim.data._data
        self.model, self.data = model, data
        self.substeps = int(sim_env.control_timestep / sim_env.model_timestep)
        self.joints = _index(self.robot._ref_joint_pos_indexes)
        self.dofs = _index(self.robot._ref_joint_vel_indexes)
        assert isinstance(self.joints, slice)  # views need slices
        assert isinstance(self.dofs, slice)
        self.fingers = _index(self.robot._ref_gripper_joint_pos_indexes["right"])
        self.finger_dofs = _index(self.robot._ref_gripper_joint_vel_indexes["right"])
        self.motors = _index(self.robot._ref_arm_joint_actuator_indexes)
        self.low, self.high = model.actuator_ctrlrange[self.motors].T.copy()
        self.site: int = self.robot.eef_site_id["right"]
        base = model.site(f"{self.robot.robot_model.naming_prefix}right_center")
        self.base: str = base.name
        self.base_moves = bool(model.body_weldid[model.site_bodyid[base.id]])  # IIWA's is part of its first link
        self.hand: int = model.body(self.robot.robot_model.eef_name["right"]).id
        # views of MuJoCo's memory, whose address does not change
        self.position, self.orientation = data.site_xpos[self.site], data.site_xmat[self.site].reshape(3, 3)
        self.qpos, self.qvel, self.qacc, self.bias, self.ctrl = (
            data.qpos, data.qvel, data.qacc, data.qfrc_bias[self.dofs], data.ctrl,
        )  # fmt: skip
        self.jacobian_position, self.jacobian_rotation = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        self.inertia = np.zeros((model.nv, model.nv))
        count = len(self.robot._ref_joint_vel_indexes)
        self.mass_matrix = np.zeros((count, count), order="F")  # the memory order of robosuite's indexing
        self.arm_inertia = self.inertia[self.dofs, self.dofs]
        self.arm_jacobians = self.jacobian_position[:, self.dofs], self.jacobian_rotation[:, self.dofs]
        self.hand_pose, self.wrench = np.eye(4), np.zeros(6)
        self.force, self.moment = self.wrench[:3], self.wrench[3:]
        self._wipe = FastWipe(sim_env) if type(sim_env).__name__ == "Wipe" else None

    def start_episode(self) -> NDArray[Any]:
        """Read the controllers. Call this after each reset of robosuite, which builds new ones.

        :return: the first observation, see :meth:`step`
        """
        composite = self.robot.composite_controller
        self.arm = arm = composite.part_controllers["right"]
        self.others = [(name, part) for name, part in composite.part_controllers.items() if name != "right"]
        mode = (arm.impedance_mode, arm.input_type, arm.input_ref_frame, arm._goal_update_mode)
        self.is_unusual = mode != ("fixed", "delta", "base", "achieved")  # then robosuite itself sets goals
        arm.J_pos, arm.J_ori = arm.J_full[:3], arm.J_full[3:]  # views of one array
        self.jacobian_transposed = arm.J_full.T
        self.kp, self.kd, self.rest = arm.kp, arm.kd, arm.initial_joint
        composite.update_state()
        self.to_base = self._pose_inv(self._make_pose(arm.origin_pos, arm.origin_ori))
        # robosuite's first run after a reset uses readings from before the gripper was placed
        self.velocity = np.concatenate((arm.ref_pos_vel, arm.ref_ori_vel))
        self.hand_position, self.hand_orientation = arm.ref_pos, arm.ref_ori_mat
        self.joint_position, self.joint_velocity = arm.joint_pos, arm.joint_vel
        self.mass_matrix[:] = arm.mass_matrix
        self.to_read: bool = arm.new_update
        arm.ref_pos_vel, arm.ref_ori_vel = self.velocity[:3], self.velocity[3:]
        clocks = list(self.env._observables.values())
        self.period: float = clocks[0]._sampling_timestep
        self.elapsed: float = clocks[0]._time_since_last_sample
        self.sampled: bool = clocks[0]._sampled
        self.observation = self._observe()
        return self.observation

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool]:
        """Compute what robosuite's ``step`` computes.

        :param action: shape ``(action_dim,)``, ``float64``
        :return: object state and robot's state, ``float64``; reward; whether the episode terminated
        """
        env, model, data = self.env, self.model, self.data
        timestep, period = env.model_timestep, self.period
        env.timestep += 1
        for substep in range(self.substeps):
            mujoco.mj_step1(model, data)
            if self.to_read:
                self._read_state()
            self.to_read = True
            if substep == 0:
                self._set_goal(action)
            self._control()
            if substep == 0:
                self._control_others()
            mujoco.mj_step2(model, data)
            # robosuite reads all observables after the first physics step of a sampling period
            self.elapsed += timestep
            if not self.sampled:
                self.observation, self.sampled = self._observe(), True
            if self.elapsed >= period:
                self.elapsed %= period
                self.sampled = False
        env.cur_time += env.control_timestep
        reward, done, _ = env._post_action(action)
        return self.observation, reward, done

    def _read_state(self) -> None:
        """Read what the controller's ``update`` reads: velocity, Jacobian, inertia. Pose and joints are views."""
        arm = self.arm
        self.hand_position, self.hand_orientation = self.position, self.orientation
        mujoco.mj_jacSite(self.model, self.data, self.jacobian_position, self.jacobian_rotation, self.site)
        np.dot(self.jacobian_position, self.qvel, out=arm.ref_pos_vel)
        np.dot(self.jacobian_rotation, self.qvel, out=arm.ref_ori_vel)
        arm.J_pos[:], arm.J_ori[:] = self.arm_jacobians
        mujoco.mj_fullM(self.model, self.inertia, self.data.qM)
        self.mass_matrix[:] = self.arm_inertia
        self.joint_position, self.joint_velocity = self.qpos[self.joints], self.qvel[self.dofs]

    def _set_goal(self, action: NDArray[Any]) -> None:
        """Set a new goal from the action, relative to the arm's base."""
        arm, composite = self.arm, self.robot.composite_controller
        if self.base_moves or self.is_unusual:
            arm.ref_pos[:], arm.ref_ori_mat[:] = self.hand_position, self.hand_orientation
            composite.update_state()
            arm.new_update = False  # just read
            composite.set_goal(action)
            arm.new_update = True
        else:
            delta = arm.scale_action(action[: arm.control_dim])
            self.hand_pose[:3, :3], self.hand_pose[:3, 3] = self.hand_orientation, self.hand_position
            pose = self.to_base.dot(self.hand_pose)
            arm.goal_pos = pose[:3, 3] + delta[:3]
            arm.goal_ori = np.dot(self._quat2mat(self._axisangle2quat(delta[3:6])), pose[:3, :3])
            for name, controller in self.others:
                first, last = composite._action_split_indexes[name]
                controller.set_goal(composite.grippers[name].format_action(action[first:last]))
        self._place_goal()

    def _place_goal(self) -> None:
        """Transform the goal to the world. It stays the same for the whole step, unless the arm's base moves."""
        arm = self.arm
        self.goal_position = arm.origin_pos + np.dot(arm.origin_ori, arm.goal_pos)
        self.goal_orientation = np.dot(arm.origin_ori, arm.goal_ori)

    def _control(self) -> None:
        """Run operational space control. Subtract the velocity of the base only if the base moves."""
        arm, velocity = self.arm, self.velocity
        if self.base_moves:
            self.robot.composite_controller.update_state()
            self._place_goal()
            data = self.env.sim.data
            velocity = velocity - np.concatenate((data.get_site_xvelp(self.base), data.get_site_xvelr(self.base)))
        desired = self._desired(
            self.goal_position,
            self.hand_position,
            self.goal_orientation,
            self.hand_orientation,
            velocity,
            self.kp,
            self.kd,
        )
        _, lambda_position, lambda_orientation, nullspace = self._opspace(
            self.mass_matrix, arm.J_full, arm.J_pos, arm.J_ori
        )
        np.dot(lambda_position, desired[:3], out=self.force)
        np.dot(lambda_orientation, desired[3:], out=self.moment)
        arm.torques, self.ctrl[self.motors] = self._limited(
            np.dot(self.jacobian_transposed, self.wrench) + self.bias,
            self.mass_matrix,
            nullspace,
            self.rest,
            self.joint_position,
            self.joint_velocity,
            self.low,
            self.high,
        )

    def _control_others(self) -> None:
        """Control the gripper, once per step, and record the forces that Wipe rewards."""
        robot = self.robot
        for name, controller in self.others:
            motors = robot._ref_actuators_indexes_dict[name]
            limits = self.model.actuator_ctrlrange[motors]
            self.ctrl[motors] = np.clip(controller.run_controller(), limits[:, 0], limits[:, 1])
        if self._wipe is not None:
            measured = [robot.get_sensor_measurement(name) for name in self._wipe.sensors]
            robot.recent_ee_forcetorques["right"].push(np.concatenate(measured))

    def _observe(self) -> NDArray[Any]:
        """Object state, then robot state, in robosuite's order."""
        env, data = self.env, self.data
        joints, hand = self.qpos[self.joints].copy(), self.position.copy()
        robot = (
            joints, np.cos(joints), np.sin(joints), self.qvel[self.dofs], self.qacc[self.dofs],
            hand, data.xquat[self.hand][[1, 2, 3, 0]], self._mat2quat(self.orientation),
            self.qpos[self.fingers], self.qvel[self.finger_dofs],
        )  # fmt: skip
        if self._wipe is not None:
            radius, centroid, _ = self._wipe.information()
            wiped = len(env.wiped_markers) / env.num_markers
            return np.concatenate(([wiped, radius], centroid, centroid - hand, *robot, [float(self._wipe.presses())]))
        door, handle = data.xpos[env.object_body_ids["door"]], data.site_xpos[env.door_handle_site_id]
        turned = [self.qpos[env.handle_qpos_addr]] if env.use_latch else []
        opened = [self.qpos[env.hinge_qpos_addr]]
        return np.concatenate((door, handle, opened, door - hand, handle - hand, turned, *robot))
