"""Worlds of a task by its name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from daft_rl.envs.cuda.worlds import Blueprint, Worlds
from daft_rl.envs.registry import TASKS, get_task
from daft_rl.envs.shift import Shift
from daft_rl.errors import TaskError
from daft_rl.imports import load_object

__all__ = ["make_blueprints", "make_worlds", "worlds_from"]


def _worlds_of(name: str) -> type[Worlds]:
    """The class of a task's worlds.

    :raises TaskError: the task has none
    """
    path = get_task(name).worlds
    if path is None:
        supported = ", ".join(task for task in TASKS if TASKS[task].worlds)
        raise TaskError(
            f"vec='cuda' cannot simulate task '{name}'. It supports {supported}, and Gymnasium's MuJoCo tasks of "
            "version 5 by their ids, such as Hopper-v5, or mujoco/Hopper-v5 to shift its model. Use vec='auto'.",
            arguments=("vec",),
        )
    worlds: type[Worlds] = load_object(path)
    return worlds


def make_blueprints(name: str, shifts: Sequence[Shift]) -> list[Blueprint]:
    """Read from a task's C environment what its worlds need. This needs the simulator's package.

    :param name: see :func:`daft_rl.envs.registry.get_task`
    :param shifts: the distinct shifts
    :return: a blueprint for each shift; they can be pickled
    :raises TaskError: the task has no worlds, or a shift takes sensors away
    """
    worlds, kwargs = _worlds_of(name), get_task(name).kwargs
    if any(shift.missing_sensors for shift in shifts):
        raise TaskError("shift.missing_sensors: vec='cuda' has all sensors. Use vec='auto'.", arguments=("vec",))
    return [worlds.blueprint(shift, **kwargs) for shift in shifts]


def worlds_from(
    name: str, blueprints: Sequence[Blueprint], num_worlds: int, device: str = "cuda", seed: int | None = None
) -> Worlds:
    """Build worlds from blueprints, which they share evenly. This does without the simulator's package.

    :param name: of the task
    :param blueprints: world ``i`` takes the blueprint ``i % len(blueprints)``
    :param num_worlds: at least 1
    :param device: ``cuda``, ``cuda:1``, or ``cpu`` for tests
    :param seed: of everything random; ``None`` draws one
    :raises TaskError: there is no such device, the task has no worlds, or the structure of the models differs
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise TaskError(
            "vec='cuda': PyTorch finds no GPU with CUDA. Use vec='auto', or device='cpu' to try it on the CPU, "
            "where it is slow.",
            arguments=("vec",),
        )
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    distinct = blueprints[:num_worlds]
    return _worlds_of(name)(distinct, np.arange(num_worlds) % len(distinct), device, seed)


def make_worlds(
    name: str, num_worlds: int, shifts: Sequence[Shift], device: str = "cuda", seed: int | None = None
) -> Worlds:
    """Make many worlds of a task.

    :param name: see :func:`daft_rl.envs.registry.get_task`
    :param shifts: the distinct shifts; world ``i`` takes the shift ``i % len(shifts)``
    :param num_worlds: see :func:`worlds_from`, also for ``device`` and ``seed``
    :raises TaskError: see :func:`worlds_from`
    """
    return worlds_from(name, make_blueprints(name, shifts[:num_worlds]), num_worlds, device, seed)
