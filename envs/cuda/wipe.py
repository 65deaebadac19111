"""robosuite's Wipe on a device. Dirt never collides, so it is no part of the physics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
import torch
import warp as wp
from numpy.typing import NDArray
from torch import Tensor

from daft_rl.envs.cuda.arm import ArmBlueprint, ArmWorlds, EpisodeStart, read_arm
from daft_rl.envs.cuda.dirt import count_contacts, draw_dirt
from daft_rl.envs.robosuite.shift import RobosuiteShift

__all__ = ["WipeBlueprint", "WipeStart", "WipeWorlds"]

# robosuite's DEFAULT_WIPE_CONFIG
COLLISION_REWARD = -10.0
CONTACT_REWARD = 0.01
UNIT_REWARD = 50.0
EXCESS_FORCE_PENALTY = 0.05
DISTANCE_REWARD, DISTANCE_SLOPE = 5.0, 5.0
COMPLETE_REWARD = UNIT_REWARD * (CONTACT_REWARD + 0.5)
CONTACT_FORCE, PRESSURE_FORCE, EXCESS_FORCE = 1.0, 0.5, 60.0
"""Newtons"""
MANY_CONTACTS = 50
WIPER_DEPTH = 0.02
"""How far above the wiper's plane dirt may lie to be wiped (m)."""


@dataclass(frozen=True)
class WipeBlueprint(ArmBlueprint):
    """What Wipe adds."""

    markers: int
    """Pieces of dirt."""
    two_clusters: bool
    spread: NDArray[np.float64]
    """Dirt lies at most this far from the middle of the table: x, y (m)."""
    table: NDArray[np.float64]
    """The middle of its surface, shape ``(3,)``."""
    corners: list[int]
    """Geoms at the corners of the wiper."""
    arm_geoms: NDArray[np.bool_]
    """Whether a contact of a geom ends the episode, shape ``(ngeom,)``."""
    lowest: NDArray[np.float64]
    """Joint angles that end the episode, shape ``(7,)``."""
    highest: NDArray[np.float64]
    reward_scale: float


@dataclass
class WipeStart(EpisodeStart):
    """Where the dirt lies."""

    markers: Tensor
    """Shape ``(num_worlds, most markers, 3)``."""


class WipeWorlds(ArmWorlds):
    """robosuite's Wipe: wipe all dirt off the table, without touching anything with the arm."""

    contacts = 96
    constraints = 400
    blueprints: Sequence[WipeBlueprint]
    arm: WipeBlueprint

    @classmethod
    def blueprint(cls, shift: RobosuiteShift, base: str = "Wipe", time_limit: int | None = None) -> WipeBlueprint:
        """Read what the worlds need from robosuite, on the host.

        :param shift: what changes
        :param base: ``"Wipe"``
        :param time_limit: steps until an episode is truncated; ``None`` is the shift's ``horizon``
        :raises TaskError: robosuite is missing, or the shift does not fit the task
        """
        from daft_rl.envs.robosuite.environment import RobosuiteEnv

        env = RobosuiteEnv(base, shift)
        env.reset(seed=0)
        parts, task = read_arm(env, time_limit or shift.horizon), env.sim_env
        assert env._fast is not None
        wipe = env._fast._wipe
        assert wipe is not None
        model, arena = parts["model"], task.model.mujoco_arena
        is_arm = np.zeros(model.ngeom, bool)
        is_arm[[model.geom(name).id for name in task.robots[0].robot_model.contact_geoms]] = True
        table = env.data.body("table").xpos + np.array([0.0, 0.0, arena.table_half_size[2]])
        blueprint = WipeBlueprint(
            **parts,
            markers=task.num_markers,
            two_clusters=arena.two_clusters,
            spread=arena.table_half_size[:2] * arena.coverage_factor - arena.line_width / 2.0,
            table=table,
            corners=[model.geom(env.model.geom(corner).name).id for corner in wipe.corners],
            arm_geoms=is_arm,
            lowest=wipe.low,
            highest=wipe.high,
            reward_scale=task.reward_scale * task.reward_normalization_factor,
        )
        env.close()
        return blueprint

    def _allocate(self) -> None:
        super()._allocate()
        blueprints, num = self.blueprints, self.num_worlds
        counts = np.array([blueprint.markers for blueprint in blueprints])
        most = int(counts.max())
        self._count = self.per_world(counts)
        self._exists = self.per_world(np.arange(most) < counts[:, None], torch.bool)
        table = self.per_world([blueprint.table for blueprint in blueprints])
        spread = self.per_world([blueprint.spread for blueprint in blueprints])
        halves = np.where([blueprint.two_clusters for blueprint in blueprints], counts // 2, -1)
        second_line = self.per_world(halves, torch.int32)
        self._where = [
            wp.from_torch(table, dtype=wp.vec3),
            wp.from_torch(spread, dtype=wp.vec2),
            wp.from_torch(second_line),
        ]
        self._lowest = self.per_world([blueprint.lowest for blueprint in blueprints])
        self._highest = self.per_world([blueprint.highest for blueprint in blueprints])
        self._reward_scale = self.per_world([blueprint.reward_scale for blueprint in blueprints])
        self._arm_geoms = wp.from_torch(torch.as_tensor(self.arm.arm_geoms, dtype=torch.int32, device=self.device))
        self._corner_geoms = torch.as_tensor(self.arm.corners, device=self.device)
        self._drawn = torch.zeros(num, most, 3, device=self.device)
        self.markers = torch.zeros(num, most, 3, device=self.device)
        self.wiped = torch.zeros(num, most, dtype=torch.bool, device=self.device)
        with self.physics.stream():
            self._contacts = wp.zeros(num, dtype=int)
            self._arm_contacts = wp.zeros(num, dtype=int)
        self._sensor = self.physics.field("sensordata")
        self._force = torch.zeros(num, 3, device=self.device)  # at the end of the last action
        self._force_bias = torch.zeros(num, 3, device=self.device)
        self._geom_xpos = self.physics.field("geom_xpos")

    # -- episodes -------------------------------------------------------------------------------------

    def sample(self) -> WipeStart:
        seeds = torch.randint(2**31 - 1, (self.num_worlds,), generator=self.generator, device=self.device)
        with self.physics.stream():
            wp.launch(
                draw_dirt,
                self.num_worlds,
                [wp.from_torch(seeds.int()), *self._where],
                [wp.from_torch(self._drawn, dtype=wp.vec3)],
            )
        return WipeStart(self.sample_qpos(), self._drawn)

    def place(self, start: EpisodeStart, rows: Tensor | None = None) -> None:
        assert isinstance(start, WipeStart)
        fresh = torch.ones_like(self._count, dtype=torch.bool) if rows is None else rows
        self.markers.copy_(torch.where(fresh[:, None, None], start.markers, self.markers))
        self.wiped.masked_fill_(fresh[:, None], False)
        self._force_bias.masked_fill_(fresh[:, None], 0.0)

    def begin(self, start: EpisodeStart, rows: Tensor) -> Tensor:
        observation = super().begin(start, rows)
        self._force.copy_(torch.where(rows[:, None], self._sensor, self._force))
        return observation

    # -- actions --------------------------------------------------------------------------------------

    def before_substep(self, substep: int) -> None:
        """Measure the force on the wiper in the last substep only: this takes a tenth of the time of a substep."""
        disabled = int(mujoco.mjtDisableBit.mjDSBL_SENSOR)
        flags = self.physics.model.opt.disableflags & ~disabled
        self.physics.model.opt.disableflags = flags if substep == self.arm.substeps - 1 else flags | disabled

    def after_substeps(self) -> None:
        data = self.physics.data
        self._contacts.zero_()
        self._arm_contacts.zero_()
        wp.launch(
            count_contacts,
            data.naconmax,
            [data.nacon, data.contact.worldid, data.contact.geom, self._arm_geoms],
            [self._contacts, self._arm_contacts],
        )

    def observe(self) -> Tensor:
        remaining = self._exists & ~self.wiped
        centroid, left = self._centroid(remaining)
        distance = torch.linalg.vector_norm(self.markers - centroid[:, None], dim=2)
        radius = torch.where(remaining, distance, 0.0).amax(1, keepdim=True)
        wiped = 1.0 - left / self._count
        presses = self._presses()[:, None].float()
        return torch.cat((wiped[:, None], radius, centroid, centroid - self.hand, self.robot, presses), 1)

    def judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        angles = self.qpos[:, : self._lowest.shape[1]]
        at_limit = ~((self._lowest < angles) & (angles < self._highest)).all(1)
        contacts, of_arm = wp.to_torch(self._contacts), wp.to_torch(self._arm_contacts)
        unsafe = (of_arm > 0) | at_limit
        wipes = (contacts > 0) & ~unsafe
        fresh = self._under_wiper() & self._exists & ~self.wiped & wipes[:, None]
        self.wiped |= fresh
        earned = UNIT_REWARD * fresh.sum(1) + self._smooth_reward(contacts)
        reward = torch.where(unsafe, COLLISION_REWARD, earned) * self._reward_scale
        unbiased = (self._force_bias == 0.0).all(1, keepdim=True)
        self._force.copy_(self._sensor)
        self._force_bias.copy_(torch.where(unbiased, self._force, self._force_bias))
        fraction = self.wiped.sum(1) / self._count
        success = fraction == 1.0
        return reward, unsafe | success, {"is_success": success, "wiped": fraction}

    def _smooth_reward(self, contacts: Tensor) -> Tensor:
        """Rewards for closeness, contact and pressure. robosuite measures the pressure before the action."""
        remaining = self._exists & ~self.wiped
        centroid, left = self._centroid(remaining)
        distance = torch.linalg.vector_norm(centroid - self.hand, dim=1)
        closeness = DISTANCE_REWARD * (1.0 - torch.tanh(DISTANCE_SLOPE * distance))
        reward = torch.where(left > 0, closeness, COMPLETE_REWARD)
        reward += CONTACT_REWARD * ((contacts > 0) & self._presses())
        force = torch.linalg.vector_norm(self._force, dim=1)
        pressure = CONTACT_REWARD + 0.01 * force + 10.0 * CONTACT_REWARD * (contacts > MANY_CONTACTS)
        pressed = (force > PRESSURE_FORCE) & (contacts > 1)
        return reward + torch.where(force > EXCESS_FORCE, -EXCESS_FORCE_PENALTY * force, pressure * pressed)

    def _centroid(self, remaining: Tensor) -> tuple[Tensor, Tensor]:
        """The middle of the remaining dirt, shape ``(num_worlds, 3)`` (0 without dirt), and its number of pieces."""
        left = remaining.sum(1)
        total = torch.where(remaining[:, :, None], self.markers, 0.0).sum(1)
        return total / left.clamp(min=1)[:, None], left

    def _presses(self) -> Tensor:
        """Whether the force on the wiper exceeds a threshold."""
        return torch.linalg.vector_norm(self._sensor - self._force_bias, dim=1) > CONTACT_FORCE

    def _under_wiper(self) -> Tensor:
        """Whether dirt lies within the wiper, shape ``(num_worlds, most markers)``, as in ``_get_active_markers``."""
        corners = self._geom_xpos.index_select(1, self._corner_geoms)
        origin = corners[:, 1:2]
        first = torch.nn.functional.normalize(corners[:, 0:1] - origin, dim=2)
        second = torch.nn.functional.normalize(corners[:, 3:4] - origin, dim=2)
        normal = torch.nn.functional.normalize(torch.linalg.cross(first, second), dim=2)
        offsets = self.markers - origin
        height = (offsets * normal).sum(2)
        flat = offsets - height[:, :, None] * normal
        x, y = (flat * first).sum(2), (flat * second).sum(2)
        edge_x, edge_y = ((corners - origin) * first).sum(2), ((corners - origin) * second).sum(2)
        inside = (height > 0.0) & (height < WIPER_DEPTH)
        for here, there in ((0, 1), (1, 3), (3, 2), (2, 0)):
            x0, y0 = edge_x[:, here, None], edge_y[:, here, None]
            x1, y1 = edge_x[:, there, None], edge_y[:, there, None]
            inside &= (x1 - x0) * (y - y0) - (x - x0) * (y1 - y0) < 0.0
        return inside
