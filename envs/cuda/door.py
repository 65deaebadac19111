"""robosuite's Door on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from daft_rl.envs.cuda.arm import ArmBlueprint, ArmWorlds, EpisodeStart, read_arm
from daft_rl.envs.robosuite.shift import RobosuiteShift

__all__ = ["DoorBlueprint", "DoorStart", "DoorWorlds"]

OPEN = 0.3
"""Angle of the hinge (rad) from which the door counts as open."""


@dataclass(frozen=True)
class DoorBlueprint(ArmBlueprint):
    """What Door adds."""

    door: int
    """The body of the leaf."""
    handle: int
    """The site of the handle."""
    hinge_qpos: int
    handle_qpos: int | None
    """``None`` without latch."""
    lowest: NDArray[np.float64]
    """Of the place: x, y, z (m), yaw (rad)."""
    highest: NDArray[np.float64]


@dataclass
class DoorStart(EpisodeStart):
    """Where the door stands."""

    position: Tensor
    """Shape ``(num_worlds, 3)``."""
    quaternion: Tensor
    """Shape ``(num_worlds, 4)``: w, x, y, z."""


class DoorWorlds(ArmWorlds):
    """robosuite's Door: turn the handle, open the door. Episodes end with the time."""

    contacts = 48
    constraints = 200
    blueprints: Sequence[DoorBlueprint]
    arm: DoorBlueprint

    @classmethod
    def blueprint(cls, shift: RobosuiteShift, base: str = "Door", time_limit: int | None = None) -> DoorBlueprint:
        """Read what the worlds need from robosuite, on the host.

        :param shift: what changes
        :param base: ``"Door"``
        :param time_limit: steps until an episode is truncated; ``None`` is the shift's ``horizon``
        :raises TaskError: robosuite is missing, or the shift does not fit the task
        """
        from daft_rl.envs.robosuite.environment import RobosuiteEnv

        env = RobosuiteEnv(base, shift)
        env.reset(seed=0)
        task = env.sim_env
        parts = read_arm(env, time_limit or shift.horizon, moved=task.door.root_body)
        model, door, sampler = parts["model"], task.door, task.placement_initializer
        x, y, z = sampler.reference_pos - np.array([0.0, 0.0, door.bottom_offset[-1] - sampler.z_offset])
        ranges = [sampler.x_range, sampler.y_range, (0.0, 0.0), sampler.rotation]
        env.close()
        return DoorBlueprint(
            **parts,
            door=model.body(door.door_body).id,
            handle=model.site(door.important_sites["handle"]).id,
            hinge_qpos=model.joint(door.joints[0]).qposadr[0],
            handle_qpos=model.joint(door.joints[1]).qposadr[0] if shift.latch else None,
            lowest=np.array([x, y, z, 0.0]) + [min(bounds) for bounds in ranges],
            highest=np.array([x, y, z, 0.0]) + [max(bounds) for bounds in ranges],
        )

    def _allocate(self) -> None:
        super()._allocate()
        self._lowest = self.per_world([blueprint.lowest for blueprint in self.blueprints])
        self._highest = self.per_world([blueprint.highest for blueprint in self.blueprints])
        self._position = self.physics.field("mocap_pos")[:, 0]
        self._quaternion = self.physics.field("mocap_quat")[:, 0]
        self._door = self.physics.field("xpos")[:, self.arm.door]
        self._handle = self.site_xpos[:, self.arm.handle]
        self._hinge = self.qpos[:, self.arm.hinge_qpos]
        turned = self.arm.handle_qpos
        self._turned = torch.zeros_like(self._hinge) if turned is None else self.qpos[:, turned]

    def sample(self) -> DoorStart:
        uniform = torch.rand(self.num_worlds, 4, generator=self.generator, device=self.device)
        place = torch.lerp(self._lowest, self._highest, uniform)
        half = place[:, 3] / 2.0
        zero = torch.zeros_like(half)
        quaternion = torch.stack((half.cos(), zero, zero, half.sin()), 1)
        return DoorStart(self.sample_qpos(), place[:, :3], quaternion)

    def place(self, start: EpisodeStart, rows: Tensor | None = None) -> None:
        assert isinstance(start, DoorStart)
        moved = torch.ones_like(self._hinge, dtype=torch.bool) if rows is None else rows
        self._position.copy_(torch.where(moved[:, None], start.position, self._position))
        self._quaternion.copy_(torch.where(moved[:, None], start.quaternion, self._quaternion))

    def observe(self) -> Tensor:
        door, handle, hand = self._door, self._handle, self.hand
        opened, turned = self._hinge[:, None], self._turned[:, None]
        return torch.cat((door, handle, opened, door - hand, handle - hand, turned, self.robot), 1)

    def judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """robosuite's reward: 1 for an open door, else up to 0.25 for reaching and 0.25 for turning the handle."""
        opened = self._hinge > OPEN
        distance = torch.linalg.vector_norm(self._handle - self.hand, dim=1)
        turning = (0.25 * (self._turned / (0.5 * np.pi)).abs()).clamp(max=0.25)
        reward = torch.where(opened, 1.0, 0.25 * (1.0 - torch.tanh(10.0 * distance)) + turning)
        return reward, torch.zeros_like(opened), {"is_success": opened}
