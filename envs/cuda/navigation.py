"""Safety-Gymnasium's Goal tasks with a Point or a Car, as worlds on the GPU.

Only the agent and the vases are bodies. The goal and the hazards never touch anything: they are places. One kernel
after the physics gives observations, rewards and costs, and moves goals that were reached; another begins episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import torch
import warp as wp
from numpy.typing import NDArray
from torch import Tensor

from daft_rl.envs.cuda.layouts import FIRST_HAZARD, Room
from daft_rl.envs.cuda.navigation_kernels import Rules, State, begin_episodes, finish_steps, touch_vases
from daft_rl.envs.cuda.worlds import Blueprint, Worlds
from daft_rl.envs.safety.changes import model_changer
from daft_rl.envs.safety.environment import SafetyEnv, make_safety
from daft_rl.envs.safety.shift import SafetyShift
from daft_rl.errors import SimulationError, TaskError

__all__ = ["Navigation", "NavigationBlueprint", "NavigationWorlds"]

SUPPORTED = tuple(f"Safety{agent}Goal{level}-v0" for agent in ("Point", "Car") for level in range(3))
FAR_AWAY = 20.0
"""Where vases lie while nothing is placed, metres."""


@dataclass(frozen=True)
class Navigation:
    """What worlds of one batch share: the task without its physics."""

    room: Room
    goal_size: float
    """Radius in which the goal is reached, metres."""
    reward_distance: float
    """Reward per metre towards the goal."""
    reward_goal: float
    reward_clip: float
    lidar_range: float
    """Metres."""
    lidar_bins: int
    observed: tuple[str, ...]
    """Parts of an observation in their order: sensors, then lidars."""
    physics_steps: int
    """Of each environment step."""
    vases_cost: bool
    """Whether vases must not be touched or moved."""


@dataclass(frozen=True)
class NavigationBlueprint(Blueprint):
    """One shift of a Goal task. The model has neither goal nor hazards."""

    task: Navigation
    hazards: int
    hazard_size: float
    """Radius of a hazard, metres."""


def _physical_model(env: SafetyEnv, shift: SafetyShift) -> mujoco.MjModel:
    """The model of the agent and the vases alone: the agent at the origin, vases far away."""
    spec = mujoco.MjSpec.from_string(env.task.world.xml_string)
    for body in list(spec.worldbody.bodies):
        if body.name == "agent" or body.name.startswith("vase"):
            body.quat = (1.0, 0.0, 0.0, 0.0)
            x = 0.0 if body.name == "agent" else FAR_AWAY + int(body.name.removeprefix("vase"))
            body.pos = (x, 0.0, body.pos[2])
        else:
            spec.delete(body)
    for sensor in [sensor for sensor in spec.sensors if sensor.name.startswith("subtree")]:
        spec.delete(sensor)
    for geom in spec.geoms:
        geom.material = ""
    for element in [*spec.materials, *spec.textures, *spec.cameras, *spec.lights]:
        spec.delete(element)
    model = spec.compile()
    change = model_changer(shift)
    if change is not None:
        change(model)
    return model


def _read_task(task: Any) -> Navigation:
    """Read the numbers of the package's task object."""
    keepout = {name: keepout for name, (_, keepout) in task.placements_conf.placements.items()}
    radii = {name.removesuffix("0"): keepout[name] for name in ("agent", "goal", "hazard0", "vase0") if name in keepout}
    return Navigation(
        room=Room(tuple(task.placements_conf.extents), task.placements_conf.margin, **radii),
        goal_size=task.goal.size,
        reward_distance=task.goal.reward_distance,
        reward_goal=task.goal.reward_goal,
        reward_clip=task.reward_conf.reward_clip,
        lidar_range=task.lidar_conf.max_dist,
        lidar_bins=task.lidar_conf.num_bins,
        observed=tuple(task.obs_info.obs_space_dict),
        physics_steps=task.sim_conf.frameskip_binom_n,
        vases_cost=hasattr(task, "vases") and task.vases.is_constrained,
    )


def _sensors_at_rest(model: mujoco.MjModel) -> NDArray[Any]:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return data.sensordata


def _device_rules(task: Navigation, model: mujoco.MjModel, vases: int) -> Rules:
    """The task's numbers and the model's addresses, as kernels take them."""
    rules = Rules()
    rules.room = task.room.on_device()
    for name in ("goal_size", "reward_distance", "reward_goal", "reward_clip", "lidar_range", "lidar_bins"):
        setattr(rules, name, getattr(task, name))
    rules.vases, rules.vases_cost = vases, task.vases_cost
    agent = model.body("agent")
    rules.agent, rules.height = agent.id, float(agent.pos[2])
    rules.agent_is_free = bool(model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE)
    rules.qpos_at_rest = wp.array(model.qpos0, dtype=float)
    if vases:
        joint = model.joint("vase0")
        rules.first_vase, rules.vase_qpos, rules.vase_qvel = model.body("vase0").id, joint.qposadr[0], joint.dofadr[0]
    rules.magnetic = wp.vec3(*model.opt.magnetic)
    _describe_observation(rules, task, model)
    return rules


def _describe_observation(rules: Rules, task: Navigation, model: mujoco.MjModel) -> None:
    """Say where an observation's parts come from and go to."""
    rules.orientation = -1
    sources: list[int] = []
    column = 0
    for name in task.observed:
        if name.endswith("_lidar"):
            setattr(rules, name, column)
            column += task.lidar_bins
            continue
        sensor = model.sensor(name)
        if sensor.type == mujoco.mjtSensor.mjSENS_BALLQUAT:
            rules.orientation, rules.quaternion = column, sensor.adr[0]
            column += 9
            continue
        if name == "magnetometer":
            rules.magnetometer = column
        sources += range(sensor.adr[0], sensor.adr[0] + sensor.dim[0])
        column += sensor.dim[0]
    rules.sensors = wp.array(sources, dtype=int)


class NavigationWorlds(Worlds):
    """Worlds of a Goal task. Shifts of the level, and of floor friction beside none, need a batch each.

    ``extras`` has ``cost`` (of the step) and ``episode_cost`` (the sum so far), shape ``(num_worlds,)``. An episode's
    first observation has the agent's sensors at rest, as C MuJoCo computes them where the agent looks along the x axis:
    Car's acceleration at that moment depends on rounding (its wheels just touch the floor).

    :raises TaskError: worlds differ in the structure of their models or in the task's numbers
    """

    @classmethod
    def blueprint(cls, shift: SafetyShift, base: str = "SafetyPointGoal1-v0") -> NavigationBlueprint:
        """Read a task from Safety-Gymnasium, which must be installed.

        :param shift: what changes
        :param base: an id of the package
        :raises TaskError: the package is not installed, the task is not supported, or it lacks what the shift changes
        """
        if base not in SUPPORTED:
            raise TaskError(
                f"{base}: vec='cuda' simulates {', '.join(SUPPORTED)} of Safety-Gymnasium. Use another vec for it."
            )
        env: Any = make_safety(base, shift).unwrapped
        env.reset(seed=0)
        hazards = getattr(env.task, "hazards", None)
        return NavigationBlueprint(
            model=_physical_model(env, shift),
            shift=shift,
            observation_space=env.observation_space,
            action_space=env.action_space,
            time_limit=env.task.num_steps,
            task=_read_task(env.task),
            hazards=0 if hazards is None else hazards.num,
            hazard_size=0.0 if hazards is None else float(hazards.size),
        )

    def __init__(
        self,
        blueprints: Sequence[NavigationBlueprint],
        blueprint_of_world: NDArray[Any],
        device: str | torch.device = "cuda",
        seed: int = 0,
    ) -> None:
        task, model = blueprints[0].task, blueprints[0].model
        if any(blueprint.task != task for blueprint in blueprints):
            raise TaskError(
                "Worlds of one batch must share the level of their task. Give each level a batch of its own."
            )
        vases = sum(model.body(i).name.startswith("vase") for i in range(model.nbody))
        self.contacts = 20 + 8 * vases
        self.constraints = 10 * self.contacts  # a contact with torsion and rolling has ten rows
        super().__init__(blueprints, blueprint_of_world, device, seed)
        self.task, self.vases = task, vases
        self._allocate(blueprints)
        with self.physics.stream():
            self._rules, self._task_state = _device_rules(task, model, vases), self._state()
        self._begin = self.physics.program(self._launch_begin)
        self._advance = self.physics.program(self._launch_advance)

    def _allocate(self, blueprints: Sequence[NavigationBlueprint]) -> None:
        """The state of the task, and what its kernels write."""

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(self.num_worlds, *shape, dtype=dtype, device=self.device)

        hazards = [blueprint.hazards for blueprint in blueprints]
        self.hazards = self.per_world(hazards, torch.int32)
        """Their number in each world."""
        self.places = zeros(FIRST_HAZARD + max(hazards) + self.vases, 2)
        """Of the agent, the goal, the hazards and, right after a world's last hazard, the vases."""
        self.goal_distance = zeros()
        self._hazard_size = self.per_world([blueprint.hazard_size for blueprint in blueprints])
        self._at_rest = self.per_world([_sensors_at_rest(blueprint.model) for blueprint in blueprints])
        self._rows, self._entropy = zeros(dtype=torch.bool), zeros(dtype=torch.int32)
        self._costs = torch.zeros(2, self.num_worlds, device=self.device)
        self._first, self._observation = zeros(*self.observation_space.shape), zeros(*self.observation_space.shape)
        self._reward, self._terminated, self._touched = zeros(), zeros(dtype=torch.bool), zeros(dtype=torch.bool)
        self._unplaced = torch.zeros(1, dtype=torch.int32, device=self.device)
        self._control = self.physics.field("ctrl")

    def _state(self) -> State:
        """The task's state as kernels take it; it shares the memory of the tensors."""
        state = State()
        state.hazards, state.hazard_size = wp.from_torch(self.hazards), wp.from_torch(self._hazard_size)
        state.places, state.goal_distance = wp.from_torch(self.places, dtype=wp.vec2), wp.from_torch(self.goal_distance)
        state.episode_cost, state.entropy = wp.from_torch(self._costs[1]), wp.from_torch(self._entropy)
        return state

    def _launch_begin(self) -> None:
        data, tensors = self.physics.data, (self._rows, self._at_rest, self._unplaced, self._first)
        rows, at_rest, unplaced, first = map(wp.from_torch, tensors)
        arrays = [at_rest, data.qpos, data.qvel, data.qacc_warmstart, unplaced, first]
        wp.launch(begin_episodes, self.num_worlds, inputs=[rows, self._rules, self._task_state, *arrays])

    def _launch_advance(self) -> None:
        physics, data, model = self.physics, self.physics.data, self.physics.model
        flags = model.opt.disableflags
        model.opt.disableflags = flags | physics.mjw.DisableBit.SENSOR  # they are read after the last step
        for _ in range(self.task.physics_steps):
            physics.mjw.step(model, data)
        model.opt.disableflags = flags
        physics.mjw.forward(model, data)
        touched, contact = wp.from_torch(self._touched), data.contact
        if self.task.vases_cost:
            touched.zero_()
            inputs = [data.nacon, contact.geom, contact.worldid, model.geom_bodyid, self._rules, touched]
            wp.launch(touch_vases, len(contact.geom), inputs=inputs)
        results = map(wp.from_torch, (self._observation, self._reward, self._terminated, self._costs[0]))
        arrays = [data.xpos, data.xmat, data.qvel, data.sensordata, touched, *results]
        wp.launch(finish_steps, self.num_worlds, inputs=[self._rules, self._task_state, *arrays])

    def restart(self, rows: Tensor) -> Tensor:
        """Place everything anew in some worlds; see :meth:`Worlds.restart`."""
        self._rows.copy_(rows)
        self._entropy.random_(generator=self.generator)
        self._begin()
        return self._first.clone()

    def move(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Move every world by one action; see :meth:`Worlds.move`."""
        self._control.copy_(action)
        self._entropy.random_(generator=self.generator)
        self._advance()
        cost, episode_cost = self._costs.clone()  # a restart clears the sum of the episode
        extras = {"cost": cost, "episode_cost": episode_cost}
        return self._observation, self._reward, self._terminated, extras

    def check(self) -> None:
        """Read the guards from the device; see :meth:`Worlds.check`.

        :raises SimulationError: forces were lost, or the objects of a world found no places
        """
        super().check()
        unplaced = int(self._unplaced)
        if unplaced:
            raise SimulationError(
                f"In {unplaced} episodes there was no room for all objects, however often they were placed. "
                "Choose a smaller shift.hazards."
            )
