"""Safety-Gymnasium's steps in less time and with the same bits: its Python work on arrays instead of on scalars.

Functions replace methods of one task object; classes and installed files stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mujoco
import numpy as np

__all__ = ["speed_up"]


def speed_up(task: Any) -> None:
    """Replace the slow methods of a navigation task, where it is known to be safe.

    :param task: the package's task object
    """
    from safety_gymnasium.bases.base_task import BaseTask

    def plain(name: str) -> bool:
        """Whether the task leaves a method of all tasks as it is."""
        return getattr(type(task), name) is getattr(BaseTask, name)

    agent = task.agent
    agent.get_sensor = _sensor_reader(agent)
    task._obs_lidar_pseudo = partial(_lidar, task)
    if plain("simulation_forward") and not task._mocaps and not task.debug:
        task.simulation_forward = partial(_simulate, task)
    # Nothing else moves in these tasks: what the package computes again before costs and observations is there already
    settled = type(task).__name__.startswith("GoalLevel") and type(agent).__name__ in ("Point", "Car")
    if settled and not task._is_load_static_geoms:
        task.calculate_cost = partial(_cost, task)
    if plain("obs") and task.observation_flatten and not task.observe_vision:
        task.obs = partial(_observe, task, settled)
    hazards = task._geoms.get("hazards")
    if hazards is not None:
        positions = _positions(task, [f"hazard{i}" for i in range(hazards.num)])
        hazards.cal_cost = partial(_hazard_cost, hazards, positions)


def _positions(task: Any, names: list[str]) -> Callable[[], np.ndarray]:
    """A function that reads the positions of bodies; their numbers do not change between resets."""
    rows: list[int] = []

    def read() -> np.ndarray:
        if not rows:
            rows.extend(task.model.body(name).id for name in names)
        return task.data.xpos[rows]

    return read


def _sensor_reader(agent: Any) -> Callable[[str], np.ndarray]:
    places: dict[str, slice] = {}

    def read(name: str) -> np.ndarray:
        if name not in places:
            model = agent.engine.model
            sensor = model.sensor(name).id
            places[name] = slice(model.sensor_adr[sensor], model.sensor_adr[sensor] + model.sensor_dim[sensor])
        return agent.engine.data.sensordata[places[name]].copy()

    return read


def _lidar(task: Any, positions: Any) -> np.ndarray:
    """How close the nearest object is in each direction, array ``(num_bins,)``."""
    conf = task.lidar_conf
    places = np.array(positions, ndmin=2)
    away = np.zeros((len(places), 3))
    away[:, :2] = places[:, :2]
    away -= task.agent.pos
    x, y = np.matmul(away, task.agent.mat)[:, :2].T
    distance = np.abs(x + 1j * y)
    angle = np.arctan2(y, x) % (np.pi * 2)
    width = (np.pi * 2) / conf.num_bins
    bins = (angle / width).astype(int)
    if conf.max_dist is None:
        sensor = np.exp(-conf.exp_gain * distance)
    else:
        sensor = np.maximum(0, conf.max_dist - distance) / conf.max_dist
    seen = np.zeros(conf.num_bins)
    np.maximum.at(seen, bins, sensor)
    if conf.alias:
        share = (angle - width * bins) / width
        np.maximum.at(seen, (bins + 1) % conf.num_bins, share * sensor)
        np.maximum.at(seen, (bins - 1) % conf.num_bins, (1 - share) * sensor)
    return seen


def _simulate(task: Any, action: np.ndarray) -> bool:
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


def _hazard_cost(hazards: Any, positions: Callable[[], np.ndarray]) -> dict[str, float]:
    if not hazards.is_constrained:
        return {}
    distances = np.sqrt(np.square(positions()[:, :2] - hazards.agent.pos[:2]).sum(axis=1))
    inside = distances[distances <= hazards.size]
    return {"cost_hazards": sum((hazards.cost * (hazards.size - distance) for distance in inside), 0)}


def _observe(task: Any, settled: bool) -> np.ndarray:
    if not settled:
        mujoco.mj_forward(task.model, task.data)
    seen = task.agent.obs_sensor()
    for obstacle in task._obstacles:
        if obstacle.is_lidar_observed:
            seen[obstacle.name + "_lidar"] = task._obs_lidar(obstacle.pos, obstacle.group)
        if getattr(obstacle, "is_comp_observed", False):
            seen[obstacle.name + "_comp"] = task._obs_compass(obstacle.pos)
    return np.concatenate([seen[name].ravel() for name in task.obs_info.obs_space_dict])
