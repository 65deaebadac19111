"""What robosuite's Door and Wipe share on a device: the arm, its controller, its episodes, and the stripped model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
import torch
import warp as wp
from numpy.typing import NDArray
from torch import Tensor

from daft_rl.envs.cuda.osc import ARM_JOINTS, HAND_SIZE, control_arm, observe_arm, set_goal
from daft_rl.envs.cuda.worlds import Blueprint, Worlds
from daft_rl.errors import TaskError

if TYPE_CHECKING:
    from daft_rl.envs.robosuite.environment import RobosuiteEnv

__all__ = ["ArmBlueprint", "ArmWorlds", "EpisodeStart", "read_arm"]


@dataclass(frozen=True)
class ArmBlueprint(Blueprint):
    """What both tasks need of one shift. Joints and motors of the arm are the model's first seven."""

    substeps: int
    """Physics steps per action."""
    fingers: int
    """Joints of the gripper, which follow those of the arm."""
    hand_site: int
    base_site: int
    """The frame in which actions are directions."""
    hand_body: int
    stiffness: NDArray[np.float64]
    """kp of the controller, shape ``(6,)``."""
    damping: NDArray[np.float64]
    """kd of the controller, shape ``(6,)``."""
    action_scale: NDArray[np.float64]
    """Metres and radians of an action of 1, shape ``(6,)``."""
    finger_speed: NDArray[np.float64]
    """Change of the fingers' commands per action that closes the gripper, shape ``(fingers,)``."""
    qpos: NDArray[np.float64]
    """Where an episode starts, without noise, shape ``(nq,)``."""
    noise: float
    """Standard deviation of the arm's first joint angles."""


@dataclass
class EpisodeStart:
    """How episodes begin. Tasks add what they place. The first dimension is the number of worlds."""

    qpos: Tensor
    """Shape ``(num_worlds, nq)``. Its arm is also the rest pose of the controller's null space."""


def strip(env: RobosuiteEnv, moved: str | None = None) -> mujoco.MjModel:
    """Compile robosuite's model again without what only a camera sees, and with the shifted numbers of ``env.model``.

    Accelerations stay the same. Bodies, joints and sites keep their names, not their indices.

    :param env: an environment that was just reset
    :param moved: a body that each episode puts elsewhere: the only mocap body of the result
    """
    full = env.model
    spec = mujoco.MjSpec.from_string(env.sim_env.model.get_xml())
    markers = {marker.root_body for marker in getattr(env.sim_env.model.mujoco_arena, "markers", ())}
    force = env.sim_env.robots[0].gripper["right"].important_sensors["force_ee"] if env.base == "Wipe" else None
    for geom in list(spec.geoms):
        if not (geom.contype or geom.conaffinity):
            spec.delete(geom)
    for body in list(spec.bodies):
        if body.mocap or body.name in markers:
            spec.delete(body)
        elif body.name == moved:
            body.mocap = True
    meshes = {geom.meshname for geom in spec.geoms}
    unused = [mesh for mesh in spec.meshes if mesh.name not in meshes]
    unread = [sensor for sensor in spec.sensors if sensor.name != force]
    for element in (*unused, *unread, *spec.cameras, *spec.lights):
        spec.delete(element)
    model = spec.compile()
    for body in range(model.nbody):
        source = full.body(model.body(body).name).id
        for name in ("body_mass", "body_inertia", "body_ipos", "body_iquat"):
            getattr(model, name)[body] = getattr(full, name)[source]
    for name in ("dof_damping", "dof_frictionloss"):
        getattr(model, name)[:] = getattr(full, name)
    mujoco.mj_setConst(model, mujoco.MjData(model))
    if not model.nsensor:
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_SENSOR
    return model


def read_arm(env: RobosuiteEnv, time_limit: int, moved: str | None = None) -> dict[str, Any]:
    """Read the fields of :class:`ArmBlueprint`.

    :param env: an environment that was just reset
    :param time_limit: steps until an episode is truncated
    :param moved: see :func:`strip`
    :raises TaskError: the arm does not have seven joints
    """
    fast, robot = env._fast, env.sim_env.robots[0]
    assert fast is not None
    if fast.joints != slice(0, ARM_JOINTS) or fast.dofs != slice(0, ARM_JOINTS):
        raise TaskError(f"shift.robot: worlds of vec='cuda' need an arm of {ARM_JOINTS} joints, got {robot.name}.")
    model, arm, gripper = strip(env, moved), fast.arm, robot.gripper["right"]
    full = env.model
    fingers = len(robot._ref_gripper_joint_pos_indexes["right"])
    qpos = model.qpos0.copy()
    qpos[:ARM_JOINTS] = robot.init_qpos
    speed = np.zeros(fingers)
    if fingers:
        qpos[ARM_JOINTS : ARM_JOINTS + fingers] = gripper.init_qpos
        gripper.current_action = np.zeros(gripper.dof)
        speed = gripper.format_action(np.ones(1))
    return {
        "model": model,
        "shift": env.shift,
        "observation_space": env.observation_space,
        "action_space": env.action_space,
        "time_limit": time_limit,
        "substeps": fast.substeps,
        "fingers": fingers,
        "hand_site": model.site(full.site(fast.site).name).id,
        "base_site": model.site(fast.base).id,
        "hand_body": model.body(full.body(fast.hand).name).id,
        "stiffness": arm.kp,
        "damping": arm.kd,
        "action_scale": (arm.output_max - arm.output_min) / 2.0,
        "finger_speed": speed,
        "qpos": qpos,
        "noise": robot.initialization_noise["magnitude"],
    }


class ArmWorlds(Worlds):
    """Worlds with one arm. A task places things, and judges.

    :param blueprints: see :class:`~daft_rl.envs.cuda.worlds.Worlds`
    :param blueprint_of_world: see there
    :param device: see there
    :param seed: see there
    :raises TaskError: see there
    """

    blueprints: Sequence[ArmBlueprint]

    def __init__(
        self,
        blueprints: Sequence[ArmBlueprint],
        blueprint_of_world: NDArray[Any],
        device: str | torch.device = "cuda",
        seed: int = 0,
    ) -> None:
        for name in ("robot", "latch"):
            if len({getattr(blueprint.shift, name) for blueprint in blueprints}) > 1:
                raise TaskError(
                    f"shift.{name}: worlds of one batch must share it. Make a batch for each of its values."
                )
        super().__init__(blueprints, blueprint_of_world, device, seed)
        self.arm = blueprints[0]
        self._allocate()
        with self.physics.stream():
            self.place(self.sample())
        self._act = self.physics.program(self._physics_of_action)
        self._settle = self.physics.program(self._physics_of_start)

    def _allocate(self) -> None:
        """Memory whose address the captured programs know, and views of the physics' memory."""
        size, num = self.arm, self.num_worlds
        self._action = torch.zeros(num, self.action_space.shape[0], device=self.device)
        self.robot = torch.zeros(num, HAND_SIZE + 2 * size.fingers, device=self.device)
        """The robot's part of the observation."""
        self.rest = torch.zeros(num, ARM_JOINTS, device=self.device)
        self._squeeze = torch.zeros(num, size.fingers, device=self.device)
        stiffness = self.per_world([blueprint.stiffness for blueprint in self.blueprints])
        damping = self.per_world([blueprint.damping for blueprint in self.blueprints])
        scale = torch.as_tensor(size.action_scale, dtype=torch.float32, device=self.device)
        self._finger_speed = torch.as_tensor(size.finger_speed, dtype=torch.float32, device=self.device)
        low, high = self.per_world(
            [blueprint.model.actuator_ctrlrange[ARM_JOINTS:].T for blueprint in self.blueprints]
        ).unbind(1)
        self._finger_middle, self._finger_reach = (high + low) / 2.0, (high - low) / 2.0
        self._first_qpos = self.per_world([blueprint.qpos for blueprint in self.blueprints])
        self._noise = self.per_world([[blueprint.noise] for blueprint in self.blueprints])
        field = self.physics.field
        self.qpos, self.qvel, self.site_xpos = field("qpos"), field("qvel"), field("site_xpos")
        self._ctrl, self._warmstart = field("ctrl"), field("qacc_warmstart")
        self.hand = self.site_xpos[:, size.hand_site]
        with self.physics.stream():
            self._goal = [wp.zeros(num, dtype=wp.vec3d), wp.zeros(num, dtype=wp.mat33d)]
        self._command = [wp.from_torch(tensor) for tensor in (self._action, scale)]
        self._impedance = [wp.from_torch(tensor) for tensor in (stiffness, damping, self.rest)]
        self._robot = [wp.from_torch(self.robot)]

    # -- what a task adds -----------------------------------------------------------------------------

    @abstractmethod
    def sample(self) -> EpisodeStart:
        """Draw how episodes begin, for every world."""

    @abstractmethod
    def place(self, start: EpisodeStart, rows: Tensor | None = None) -> None:
        """Place the task's things in some worlds, ``None`` for all."""

    @abstractmethod
    def observe(self) -> Tensor:
        """Join what the task observes and what the robot observes. Called after the physics."""

    @abstractmethod
    def judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Compute rewards, terminations, and further values. Called once per action, after :meth:`observe`."""

    def before_substep(self, substep: int) -> None:
        """Change what the next substep computes, while its program is captured."""

    def after_substeps(self) -> None:
        """Launch what the task reads from the physics after an action. It becomes a part of the captured program."""

    # -- episodes -------------------------------------------------------------------------------------

    def sample_qpos(self) -> Tensor:
        """The first joint positions of all worlds, with noise on the arm."""
        qpos = self._first_qpos.clone()
        shape = self.num_worlds, ARM_JOINTS
        qpos[:, :ARM_JOINTS] += self._noise * torch.randn(shape, generator=self.generator, device=self.device)
        return qpos

    def restart(self, rows: Tensor) -> Tensor:
        return self.begin(self.sample(), rows)

    def begin(self, start: EpisodeStart, rows: Tensor) -> Tensor:
        """Begin episodes in some worlds.

        :param start: how they begin
        :param rows: Booleans, shape ``(num_worlds,)``
        :return: first observations, shape ``(num_worlds, observation size)``
        """
        column = rows[:, None]
        self.qpos.copy_(torch.where(column, start.qpos, self.qpos))
        self.rest.copy_(torch.where(column, start.qpos[:, :ARM_JOINTS], self.rest))
        for state in (self.qvel, self._warmstart, self._squeeze):
            state.masked_fill_(column, 0.0)
        self._ctrl.zero_()  # the next action sets all of it
        self.place(start, rows)
        self._settle()
        return self.observe()

    # -- actions --------------------------------------------------------------------------------------

    def move(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        self._action.copy_(action)
        if self.arm.fingers:
            closing = self._finger_speed * torch.sign(action[:, 6:])
            self._squeeze.add_(closing).clamp_(-1.0, 1.0)
            self._ctrl[:, ARM_JOINTS:] = self._finger_middle + self._finger_reach * self._squeeze
        self._act()
        return self.observe(), *self.judge()

    def _physics_of_action(self) -> None:
        """Substeps of one action, each with its own torques. robosuite observes after the last one."""
        physics, arm, data = self.physics, self.arm, self.physics.data
        for substep in range(arm.substeps):
            self.before_substep(substep)
            physics.mjw.step1(physics.model, data)
            if substep == 0:
                wp.launch(
                    set_goal,
                    self.num_worlds,
                    [data.site_xpos, data.site_xmat, arm.hand_site, arm.base_site, *self._command],
                    self._goal,
                )
            self._control()
            physics.mjw.step2(physics.model, data)
        self._observe_arm()
        self.after_substeps()

    def _physics_of_start(self) -> None:
        """Accelerations and forces at the start of an episode, in which the motors rest."""
        self.physics.mjw.forward(self.physics.model, self.physics.data)
        self._observe_arm()

    def _control(self) -> None:
        model, data, arm = self.physics.model, self.physics.data, self.arm
        wp.launch(
            control_arm,
            self.num_worlds,
            [
                model.M_elemid, model.body_isdofancestor, model.body_rootid, model.site_bodyid,
                model.actuator_ctrlrange, data.site_xpos, data.site_xmat, data.subtree_com, data.cdof, data.M,
                data.qpos, data.qvel, data.qfrc_bias, arm.hand_site, arm.base_site, *self._goal, *self._impedance,
            ],
            [data.ctrl],
        )  # fmt: skip

    def _observe_arm(self) -> None:
        data, arm = self.physics.data, self.arm
        wp.launch(
            observe_arm,
            self.num_worlds,
            [
                data.qpos, data.qvel, data.qacc, data.xquat, data.site_xpos, data.site_xmat, arm.hand_site,
                arm.hand_body, arm.fingers,
            ],
            self._robot,
        )  # fmt: skip
