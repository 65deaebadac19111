"""The table of tasks, their shifts, and their registration with Gymnasium.

``NAME`` is a source task. ``NAME-shifted`` is the same task with the default shift in
``configs/env/NAME-shifted.yaml``, which the command line reads too.
A simulator is imported only when one of its tasks is made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml

from daft_rl.envs.dependencies import require_installed
from daft_rl.envs.randomization import ShiftRange, draw_shifts, read_shift_or_range, widen_shift
from daft_rl.envs.registered import find_registered
from daft_rl.envs.shift import Shift
from daft_rl.errors import TaskError
from daft_rl.imports import load_object
from daft_rl.validation import unknown_name

__all__ = [
    *("CONFIGS", "TASKS", "Task", "get_task", "levels", "make_task", "read_shift", "register_task", "register_tasks"),
    *("source_of", "task_names"),
]

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SHIFTED = "-shifted"
LOCOMOTION = "daft_rl.envs.cuda.locomotion:LocomotionWorlds"


@dataclass(frozen=True)
class Task:
    """How a source task is made. Import paths are ``module:name``."""

    entry_point: str
    """Import path of a function that takes ``shift``, ``kwargs`` and ``render_mode``, and returns an environment."""
    shift_type: str
    """Import path of the simulator's dataclass of changes."""
    max_episode_steps: int | None
    family: str
    """Name of the simulator. Levels that its tasks share stand under this name in ``configs/levels.yaml``."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keywords for the entry point."""
    vec: str = "workers"
    """The fastest kind of batch, see :func:`daft_rl.envs.make_vec`."""
    workers_from: int = 2
    """Number of cores from which workers are faster than one environment after the other."""
    worlds: str | None = None
    """Import path of the subclass of ``daft_rl.envs.cuda.worlds.Worlds`` that simulates the task on a GPU."""
    package: str = "mujoco"
    """The package that must be installed."""
    has_cost: bool = False
    """Whether ``info`` has ``cost`` and ``episode_cost``."""
    source: str | None = None
    """The task whose policies are moved to this one; ``None`` if it is a source itself."""
    moves_anew: bool = False
    """Whether nothing that moves the source's body is there: a policy keeps what it senses, and is still at first."""
    registered: bool = False
    """Whether somebody else has registered the environment, with a time limit."""


def _mujoco(base: str) -> Task:
    return Task(
        entry_point="daft_rl.envs.mujoco.environment:make_mujoco",
        shift_type="daft_rl.envs.mujoco:MujocoShift",
        max_episode_steps=1000,
        family="mujoco",
        vec="threads",
        worlds=LOCOMOTION,
        kwargs={"base": f"gymnasium.envs.mujoco.{base}"},
    )


def _mujoco_body(source: str, base: str, body: str) -> Task:
    """A task with another body, built by a function of :mod:`daft_rl.envs.mujoco.bodies`."""
    task = _mujoco(base)
    return replace(
        task, source=source, worlds=None, kwargs=task.kwargs | {"body": f"daft_rl.envs.mujoco.bodies:{body}"}
    )


def _robosuite(base: str) -> Task:
    return Task(
        entry_point="daft_rl.envs.robosuite.environment:make_robosuite",
        shift_type="daft_rl.envs.robosuite:RobosuiteShift",
        max_episode_steps=500,
        family="robosuite",
        worlds=f"daft_rl.envs.cuda.{base.lower()}:{base}Worlds",
        package="robosuite",
        kwargs={"base": base},
    )


def _robosuite_arm(source: str, robot: str) -> Task:
    """A task with another arm."""
    task = _robosuite(source)
    return replace(task, source=source, worlds=None, kwargs=task.kwargs | {"robot": robot})


def _safety(id: str) -> Task:
    return Task(
        entry_point="daft_rl.envs.safety.environment:make_safety",
        shift_type="daft_rl.envs.safety:SafetyShift",
        max_episode_steps=1000,
        family="safety",
        worlds="daft_rl.envs.cuda.navigation:NavigationWorlds",
        package="safety_gymnasium",
        workers_from=3,  # on two cores, evaluations in the background save more time, and they exclude workers
        kwargs={"base": id},
        has_cost=True,
    )


def _any_safety(id: str) -> Task:
    blueprint = load_object("daft_rl.envs.safety.package:get_blueprint", TaskError)(id)
    return replace(_safety(id), max_episode_steps=blueprint.max_episode_steps)


def _any_registered(id: str) -> Task:
    return Task(
        entry_point="daft_rl.envs.registered:make_registered",
        shift_type="daft_rl.envs.registered:RegisteredShift",
        max_episode_steps=find_registered(id).max_episode_steps,
        family="gymnasium",
        vec="dummy",  # a worker process does not know what this process registered
        worlds=LOCOMOTION,  # which raises for other tasks than Gymnasium's MuJoCo tasks
        package="gymnasium",
        kwargs={"id": id},
        registered=True,
    )


def _any_mujoco(id: str) -> Task:
    registered = _any_registered(id)
    require_installed("mujoco")
    has_rules = load_object("daft_rl.envs.mujoco.environment:has_rules", TaskError)(id)
    return replace(
        registered,
        entry_point="daft_rl.envs.mujoco.environment:make_registered_mujoco",
        shift_type="daft_rl.envs.mujoco.shift:RegisteredMujocoShift",
        family="mujoco",
        vec="threads" if has_rules else registered.vec,
        worlds=LOCOMOTION if has_rules else None,
        package="mujoco",
    )


TASKS: dict[str, Task] = {
    "Ant": _mujoco("ant_v5:AntEnv"),
    "Ant-fivelegs": _mujoco_body("Ant", "ant_v5:AntEnv", "add_fifth_leg"),
    "HalfCheetah": _mujoco("half_cheetah_v5:HalfCheetahEnv"),
    "HalfCheetah-threelegs": _mujoco_body("HalfCheetah", "half_cheetah_v5:HalfCheetahEnv", "add_third_leg"),
    "Door": _robosuite("Door"),
    "Door-UR5e": _robosuite_arm("Door", "UR5e"),
    "Wipe": _robosuite("Wipe"),
    "Wipe-UR5e": _robosuite_arm("Wipe", "UR5e"),
    "SafetyPointGoal": _safety("SafetyPointGoal1-v0"),
    "SafetyCarGoal": _safety("SafetyCarGoal1-v0"),
    "SafetyCarGoal0": _safety("SafetyCarGoal0-v0"),
    "SafetyDoggoGoal0": replace(_safety("SafetyDoggoGoal0-v0"), source="SafetyCarGoal0", moves_anew=True, worlds=None),
}
"""Tasks by name. All but those of other bodies are source tasks."""
SAFETY_ID = re.compile(r"Safety\w+-v\d+")
"""Ids of Safety-Gymnasium. Each of them is a task too."""
MUJOCO_ID = re.compile(r"mujoco/(.+)")
"""Ids of Gymnasium whose MuJoCo model is shifted. Each of them is a task too."""
REGISTERED_ID = re.compile(r".*:.*|.*-v\d+")
"""Ids of Gymnasium. Each of them is a task too."""


def task_names() -> list[str]:
    """Names of the tasks that come with daft_rl, source tasks and shifted ones.

    :return: sorted names, such as ``["Ant", "Ant-shifted", ...]``. Functions that take a task also take the other
        names that :func:`get_task` lists
    """
    configured = {path.stem for path in (CONFIGS / "env").glob("*.yaml")}
    return [name for task in sorted(TASKS) for name in (task, task + SHIFTED) if name in configured]


def get_task(name: str) -> Task:
    """Find the task behind ``NAME`` or ``NAME-shifted``.

    :param name: one of :func:`task_names`, a single-agent id of Safety-Gymnasium (``SafetyCarPush1-v0``), ``mujoco/``
        before any id of Gymnasium that is a MuJoCo environment (``mujoco/Hopper-v5``), or any other id of Gymnasium
        (``Pendulum-v1``, ``my_package:MyEnv-v0``)
    :raises TaskError: the name is unknown
    """
    if not isinstance(name, str):
        raise TaskError(f"Expected the name of a task, got {name!r}. What exists: {', '.join(task_names())}.")
    source = name.removesuffix(SHIFTED)
    if name in TASKS or (source in TASKS and name in task_names()):
        return TASKS[source]
    if SAFETY_ID.fullmatch(name):
        return _any_safety(name)
    if of_mujoco := MUJOCO_ID.fullmatch(name):
        return _any_mujoco(of_mujoco[1])
    if REGISTERED_ID.fullmatch(name):
        return _any_registered(name)
    versions = [id for id in gym.registry if re.fullmatch(rf"{re.escape(name)}-v\d+", id)]
    hint = f" Gymnasium has {', '.join(versions)}." if versions else ""
    raise TaskError(unknown_name("task", name, task_names()) + hint)


def source_of(name: str) -> str:
    """The name of the source task: ``Ant`` for ``Ant-shifted``, ``Ant-fivelegs`` and ``Ant``."""
    return get_task(name).source or name.removesuffix(SHIFTED)


@cache
def _read_yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def levels(task: str) -> dict[str, dict[str, Any]]:
    """The named shifts of a task: ``none``, those of its simulator, those of the source task, and its own.

    :param task: name of a task, see :func:`get_task`
    :return: name of the level -> fields of the shift and their values
    :raises TaskError: the task is unknown
    """
    shifts = _read_yaml(CONFIGS / "levels.yaml")
    own = {name: shifts.get(name, {}) for name in (get_task(task).family, source_of(task), task.removesuffix(SHIFTED))}
    return {"none": {}} | {level: values for levels in own.values() for level, values in levels.items()}


def read_shift(name: str, shift: Shift | ShiftRange | Mapping[str, Any] | str | None = None) -> Shift | ShiftRange:
    """Turn any notation of a shift into the checked dataclass of the task's simulator.

    :param name: name of a task, see :func:`get_task`
    :param shift: the name of a level, a mapping of fields, a dataclass, or ``None`` for the task's default shift
        (no change for a source task). A number may be a range, ``{"low": 0.5, "high": 2.0}``: see
        :mod:`daft_rl.envs.randomization`
    :return: a :class:`~daft_rl.envs.randomization.ShiftRange` if there is a range
    :raises TaskError: a level or field does not exist, or a value is impossible; the message lists what exists
    """
    task = get_task(name)
    shift_type: type[Shift] = load_object(task.shift_type)
    if isinstance(shift, Shift | ShiftRange):
        given = shift if isinstance(shift, Shift) else shift.low
        if task.registered and issubclass(shift_type, type(given)):  # a shift of its model is one of the whole too
            return widen_shift(shift, shift_type)
        if not isinstance(given, shift_type):
            raise TaskError(f"shift: task '{name}' takes a {shift_type.__name__}, got a {type(given).__name__}.")
        return shift
    if shift is None:
        shift = _default_shift(name)
    if isinstance(shift, str):
        existing = levels(name)
        if shift not in existing:
            raise TaskError(unknown_name(f"shift level of {name.removesuffix(SHIFTED)}", shift, existing))
        shift = existing[shift]
    return read_shift_or_range(shift_type, shift)


def _default_shift(name: str) -> Mapping[str, Any] | str:
    if not name.endswith(SHIFTED):
        return {}
    return _read_yaml(CONFIGS / "env" / f"{name}.yaml")["env"].get("shift", {})


def make_task(
    name: str,
    shift: Shift | ShiftRange | Mapping[str, Any] | str | None = None,
    render_mode: str | None = None,
) -> gym.Env:
    """Make a task without time limit: the entry point of our registrations. Use :func:`daft_rl.envs.make`."""
    task = get_task(name)
    require_installed(task.package)
    [drawn] = draw_shifts(read_shift(name, shift), 1)
    return load_object(task.entry_point)(shift=drawn, render_mode=render_mode, **task.kwargs)


def register_task(name: str) -> str:
    """Register a task with Gymnasium unless it is registered.

    :return: its id, ``daft_rl/NAME-v0``
    """
    id = f"daft_rl/{name}" if SAFETY_ID.fullmatch(name) else f"daft_rl/{name}-v0"
    if id not in gym.registry:
        gym.register(
            id=id,
            entry_point=f"{__name__}:make_task",
            max_episode_steps=get_task(name).max_episode_steps,
            kwargs={"name": name},
        )
    return id


def register_tasks() -> None:
    """Register every task of :func:`task_names` with Gymnasium."""
    for name in task_names():
        register_task(name)
