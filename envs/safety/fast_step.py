"""Faster steps of Safety-Gymnasium with the same bits: array operations replace loops over scalars.

Functions replace methods of one task object. Classes and installed files stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

__all__ = ["speed_up"]


def _is_current(task: Any) -> bool:
    """Whether the state is current after a step, because nothing but the agent moves in the task.

    The package would compute the state again, before costs and before observations.
    """
    return type(task).__name__.startswith("GoalLevel") and type(task.agent).__name__ in ("Point", "Car")


def speed_up(task: Any) -> None:
    """Replace the slow methods of a navigation task, unless the task overrides them.

    :param task: the package's task object
    """
    from safety_gymnasium.bases.base_task import BaseTask

    def inherited(name: str) -> bool:
        """Whether the task inherits the method from the base of all tasks."""
        return getattr(type(task), name) is getattr(BaseTask, name)

    agent = task.agent
    bodies = _Bodies(task)
    agent.get_sensor = _sensor_reader(agent)
    task._obs_lidar_pseudo = partial(_lidar, task, bodies)
    if inherited("simulation_forward") and not task._mocaps and not task.debug:
        task.simulation_forward = partial(_simulate, task)
    is_current = _is_current(task)
    if is_current and not task._is_load_static_geoms:
        task.calculate_cost = partial(_cost, task)
    if inherited("dist_goal") and "goal" in task._geoms:
        task.dist_goal = partial(_dist_goal, bodies)
    if inherited("obs") and task.observation_flatten and not task.observe_vision:
        task.obs = partial(_observe, task, bodies, is_current)
    hazards = task._geoms.get("hazards")
    if hazards is not None:
        hazards.cal_cost = partial(_hazard_cost, hazards, bodies)


class _Lidars(NamedTuple):
    """Lidars that are computed together."""

    names: list[str]
    rows: NDArray[Any]
    """Rows of all bodies that any lidar sees."""
    group: NDArray[Any]
    """For each of these bodies, the number of its lidar."""


class _Bodies:
    """Positions of the agent and of the obstacles, read by their rows in MuJoCo's arrays.

    A reset compiles a new model with the same bodies, so rows stay valid.

    :param task: the package's task object
    """

    def __init__(self, task: Any) -> None:
        self.task = task
        self._row: dict[str, int] = {}
        self._rows: dict[str, NDArray[Any] | None] = {}

    def row(self, name: str) -> int:
        """The row of one body."""
        if name not in self._row:
            self._row[name] = self.task.model.body(name).id
        return self._row[name]

    def rows(self, obstacle: Any) -> NDArray[Any] | None:
        """The rows of an obstacle's bodies; ``None`` if it has none, as a wall."""
        if obstacle.name not in self._rows:
            names = [f"{obstacle.name[:-1]}{i}" for i in range(getattr(obstacle, "num", 0) or 0)] or [obstacle.name]
            rows: NDArray[Any] | None
            try:
                rows = np.array([self.row(name) for name in names])
            except KeyError:
                rows = None
            if rows is not None and not np.array_equal(self.task.data.xpos[rows], np.array(obstacle.pos, ndmin=2)):
                rows = None
            self._rows[obstacle.name] = rows
        return self._rows[obstacle.name]

    @cached_property
    def lidars(self) -> _Lidars:
        """The lidars of obstacles that are bodies."""
        rows = {
            f"{obstacle.name}_lidar": self.rows(obstacle)
            for obstacle in self.task._obstacles
            if obstacle.is_lidar_observed and self.task.lidar_conf.type == "pseudo"
        }
        bodies = {name: found for name, found in rows.items() if found is not None}
        group = np.repeat(np.arange(len(bodies)), [len(found) for found in bodies.values()])
        return _Lidars(list(bodies), np.concatenate([*bodies.values(), group[:0]]), group)

    @property
    def agent(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Position, shape ``(3,)``, and rotation matrix, shape ``(3, 3)``, of the agent. Both are views."""
        row, data = self.row("agent"), self.task.data
        return data.xpos[row], data.xmat[row].reshape(3, 3)


def _sensor_reader(agent: Any) -> Callable[[str], NDArray[Any]]:
    places: dict[str, slice] = {}

    def read(name: str) -> NDArray[Any]:
        if name not in places:
            model = agent.engine.model
            sensor = model.sensor(name).id
            places[name] = slice(model.sensor_adr[sensor], model.sensor_adr[sensor] + model.sensor_dim[sensor])
        return agent.engine.data.sensordata[places[name]].copy()

    return read


def _lidar(task: Any, bodies: _Bodies, positions: Any) -> NDArray[Any]:
    """Closeness of the nearest object in each direction, shape ``(num_bins,)``."""
    places = np.array(positions, ndmin=2)
    return _lidars(task.lidar_conf, bodies, places, np.zeros(len(places), int), 1)[0]


def _lidars(conf: Any, bodies: _Bodies, places: NDArray[Any], group: NDArray[Any], groups: int) -> NDArray[Any]:
    """Closeness of the nearest object of each group in each direction.

    :param places: positions of the objects, shape ``(n, 2 or 3)``
    :param group: of each object, shape ``(n,)``
    :return: shape ``(groups, num_bins)``
    """
    position, rotation = bodies.agent
    away = np.zeros((len(places), 3))
    away[:, :2] = places[:, :2]
    away -= position
    # one by one, since BLAS may round a product of matrices in another way
    x, y = np.matmul(away[:, None], rotation)[:, 0, :2].T
    distance = np.abs(x + 1j * y)
    angle = np.arctan2(y, x) % (np.pi * 2)
    width = (np.pi * 2) / conf.num_bins
    bins = (angle / width).astype(int)
    if conf.max_dist is None:
        sensor = np.exp(-conf.exp_gain * distance)
    else:
        sensor = np.maximum(0, conf.max_dist - distance) / conf.max_dist
    closeness = np.zeros(groups * conf.num_bins)
    first = group * conf.num_bins
    np.maximum.at(closeness, first + bins, sensor)
    if conf.alias:
        share = (angle - width * bins) / width
        np.maximum.at(closeness, first + (bins + 1) % conf.num_bins, share * sensor)
        np.maximum.at(closeness, first + (bins - 1) % conf.num_bins, (1 - share) * sensor)
    return closeness.reshape(groups, conf.num_bins)


def _dist_goal(bodies: _Bodies) -> float:
    xpos = bodies.task.data.xpos
    goal, agent = xpos[bodies.row("goal")], xpos[bodies.row("agent")]
    x, y = float(goal[0] - agent[0]), float(goal[1] - agent[1])
    return math.sqrt(x * x + y * y)


def _simulate(task: Any, action: NDArray[Any]) -> bool:
    noise = task.action_noise * task.random_generator.randn(task.agent.body_info.nu) if task.action_noise else None
    task.agent.apply_action(action, noise)
    conf = task.sim_conf
    steps = task.random_generator.binomial(conf.frameskip_binom_n, conf.frameskip_binom_p)
    mujoco.mj_step(task.model, task.data, steps)
    mujoco.mj_forward(task.model, task.data)
    return False


def _cost(task: Any) -> dict[str, float]:
    cost: dict[str, float] = {}
    for obstacle in task._obstacles:
        cost.update(obstacle.cal_cost())
    cost["cost_sum"] = sum(value for name, value in cost.items() if name.startswith("cost_"))
    return cost


def _hazard_cost(hazards: Any, bodies: _Bodies) -> dict[str, float]:
    if not hazards.is_constrained:
        return {}
    xpos = bodies.task.data.xpos
    x, y = (xpos[bodies.rows(hazards)] - xpos[bodies.row("agent")]).T[:2]
    distances = np.sqrt(x * x + y * y)
    inside = distances[distances <= hazards.size]
    return {"cost_hazards": sum((hazards.cost * (hazards.size - distance) for distance in inside), 0)}


def _observe(task: Any, bodies: _Bodies, is_current: bool) -> NDArray[Any]:
    if not is_current:
        mujoco.mj_forward(task.model, task.data)
    parts = task.agent.obs_sensor()
    lidars = bodies.lidars
    for obstacle in task._obstacles:
        if obstacle.is_lidar_observed and obstacle.name + "_lidar" not in lidars.names:
            parts[obstacle.name + "_lidar"] = task._obs_lidar(obstacle.pos, obstacle.group)
        if getattr(obstacle, "is_comp_observed", False):
            parts[obstacle.name + "_comp"] = task._obs_compass(obstacle.pos)
    if lidars.names:
        readings = _lidars(task.lidar_conf, bodies, task.data.xpos[lidars.rows], lidars.group, len(lidars.names))
        parts |= zip(lidars.names, readings, strict=True)
    return np.concatenate([parts[name].ravel() for name in task.obs_info.obs_space_dict])
