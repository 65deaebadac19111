"""Which tasks exist, their default shifts and named levels, and one way to make any of them.

``NAME`` is the source task; ``NAME-shifted`` the same task with the default shift that stands in
``configs/env/NAME-shifted.yaml``, which is also Hydra's ``env=NAME-shifted``: command line and Python
read one file. Simulators are imported when a task of theirs is made, not before.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import yaml

from daft_rl.envs.cores import usable_cores
from daft_rl.envs.installed import check_installed
from daft_rl.envs.registered import find_registered
from daft_rl.envs.shift import Shift
from daft_rl.errors import TaskError
from daft_rl.imports import load_object

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

__all__ = [
    *("Task", "get_task", "levels", "make", "make_vec", "own_maker", "read_shift", "register_tasks"),
    *("source_of", "task_names"),
]

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SHIFTED = "-shifted"


@dataclass(frozen=True)
class Task:
    """How a source task is made. Strings are import paths, ``module:name``."""

    entry_point: str
    """Callable that takes ``shift``, ``kwargs`` and ``render_mode``, and returns an environment."""
    shift_type: str
    """The simulator's dataclass of changes."""
    max_episode_steps: int | None
    family: str
    """The simulator; its common levels stand under this name in ``configs/levels.yaml``."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    vec: str = "workers"
    """How a batch of it runs best, see :func:`make_vec`."""
    workers_from: int = 2
    """With fewer cores it does not run best in workers, but one environment after the other."""
    package: str = "mujoco"
    """What must be installed."""
    has_cost: bool = False
    """Whether ``info`` has ``cost`` and ``episode_cost``."""


def _mujoco(base: str) -> Task:
    return Task(
        entry_point="daft_rl.envs.mujoco.tasks:make_mujoco",
        shift_type="daft_rl.envs.mujoco.tasks:MujocoShift",
        max_episode_steps=1000,
        family="mujoco",
        vec="threads",
        kwargs={"base": f"gymnasium.envs.mujoco.{base}"},
    )


def _robosuite(base: str) -> Task:
    return Task(
        entry_point="daft_rl.envs.robosuite.tasks:make_robosuite",
        shift_type="daft_rl.envs.robosuite.tasks:RobosuiteShift",
        max_episode_steps=500,
        family="robosuite",
        package="robosuite",
        kwargs={"base": base},
    )


def _safety(base: str) -> Task:
    return Task(
        entry_point="daft_rl.envs.safety.tasks:make_safety",
        shift_type="daft_rl.envs.safety.tasks:SafetyShift",
        max_episode_steps=1000,
        family="safety",
        package="safety_gymnasium",
        workers_from=3,  # on two cores a run gains more from evaluations beside it, for which workers are not to be had
        kwargs={"base": base},
        has_cost=True,
    )


def _registered(id: str) -> Task:
    return Task(
        entry_point="daft_rl.envs.registered:make_registered",
        shift_type="daft_rl.envs.registered:RegisteredShift",
        max_episode_steps=find_registered(id).max_episode_steps,
        family="gymnasium",
        vec="dummy",  # what was registered in this process, a worker process does not know
        package="gymnasium",
        kwargs={"id": id},
    )


TASKS: dict[str, Task] = {
    "Ant": _mujoco("ant_v5:AntEnv"),
    "HalfCheetah": _mujoco("half_cheetah_v5:HalfCheetahEnv"),
    "Door": _robosuite("Door"),
    "Wipe": _robosuite("Wipe"),
    "SafetyPointGoal": _safety("SafetyPointGoal1-v0"),
    "SafetyCarGoal": _safety("SafetyCarGoal1-v0"),
}
SAFETY_ID = re.compile(r"Safety\w+-v\d+")
"""Ids of Safety-Gymnasium, any of which is a task too."""
VERSION = re.compile(r"-v\d+$")
"""What ends an id of Gymnasium."""


def task_names() -> list[str]:
    """Every name that :func:`make` takes."""
    return [name for task in sorted(TASKS) for name in (task, task + SHIFTED)]


def unknown(kind: str, name: str, known: list[str]) -> TaskError:
    """An error that lists what exists and guesses what was meant."""
    guess = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{guess[0]}'?" if guess else ""
    return TaskError(f"Unknown {kind} '{name}'.{hint} What exists: {', '.join(known)}.")


def get_task(name: str) -> Task:
    """The source task behind ``NAME`` or ``NAME-shifted``.

    :param name: one of :func:`task_names`, a single-agent id of Safety-Gymnasium (``SafetyCarPush1-v0``), or any
        other id of Gymnasium (``Pendulum-v1``, ``my_package:MyEnv-v0``)
    :raises TaskError: an unknown name
    """
    base = name.removesuffix(SHIFTED)
    if base in TASKS:
        return TASKS[base]
    if SAFETY_ID.fullmatch(name):
        from daft_rl.envs.safety.tasks import get_blueprint

        return replace(_safety(name), max_episode_steps=get_blueprint(name).max_episode_steps)
    if ":" in name or VERSION.search(name):
        return _registered(name)
    raise unknown("task", name, task_names())


def source_of(name: str) -> str:
    """The name of the source task: ``Ant`` for ``Ant-shifted`` and for ``Ant``."""
    get_task(name)
    return name.removesuffix(SHIFTED)


@cache
def _read_yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def levels(name: str) -> dict[str, dict[str, Any]]:
    """The named shift levels of a task: those of its simulator, then its own.

    :param name: a task's name
    :return: level -> fields of its shift
    """
    task = get_task(name)
    known = _read_yaml(CONFIGS / "levels.yaml")
    return {"none": {}} | known.get(task.family, {}) | known.get(name.removesuffix(SHIFTED), {})


def read_shift(name: str, shift: Shift | Mapping[str, Any] | str | None = None) -> Shift:
    """Turn any way of writing a shift into the task's validated dataclass.

    :param name: a task's name
    :param shift: a level's name, a mapping of fields, a dataclass, or ``None`` for the task's default
        (nothing for a source task)
    :raises TaskError: an unknown level or field, or an impossible value; the message lists what exists
    """
    shift_type: type[Shift] = load_object(get_task(name).shift_type)
    if isinstance(shift, Shift):
        if not isinstance(shift, shift_type):
            raise TaskError(f"Task '{name}' takes a {shift_type.__name__}, got {type(shift).__name__}.")
        return shift
    if shift is None:
        shift = _read_yaml(CONFIGS / "env" / f"{name}.yaml")["env"].get("shift", {}) if name.endswith(SHIFTED) else {}
    if isinstance(shift, str):
        known = levels(name)
        if shift not in known:
            raise unknown(f"shift level of {name.removesuffix(SHIFTED)}", shift, list(known))
        shift = known[shift]
    return shift_type.from_dict(shift)


def make_task(
    name: str,
    shift: Shift | Mapping[str, Any] | str | None = None,
    render_mode: str | None = None,
) -> gym.Env:
    """The registered entry point: a task without time limit. Use :func:`make`."""
    task = get_task(name)
    check_installed(task.package)
    shift = read_shift(name, shift)
    return load_object(task.entry_point)(shift=shift, render_mode=render_mode, **task.kwargs)


def make(
    name: str,
    shift: Shift | Mapping[str, Any] | str | None = None,
    seed: int | None = None,
    render_mode: str | None = None,
) -> gym.Env:
    """Make a task.

    :param name: for instance ``"Ant"`` or ``"Ant-shifted"``; see :func:`get_task`
    :param shift: what differs from the source task, see :func:`read_shift`; ``None`` is the default shift
    :param seed: seeds the first reset and the action space
    :param render_mode: ``"rgb_array"`` or ``"human"``
    :return: a Gymnasium environment with its time limit
    :raises TaskError: an unknown task, level or field, or an impossible value
    """
    if get_task(name).family == "gymnasium":  # registered by somebody else
        env = make_task(name, shift, render_mode)
    else:
        env = gym.make(register_task(name), shift=shift, render_mode=render_mode, disable_env_checker=True)
    if seed is not None:
        env.reset(seed=seed)
        env.action_space.seed(seed)
    return env


def make_vec(
    env: str | Callable[[], gym.Env],
    num_envs: int = 8,
    seed: int | None = None,
    shift: Shift | Mapping[str, Any] | str | None = None,
    vec: str = "auto",
) -> VecEnv:
    """Make a batch of one task as an SB3 ``VecEnv``.

    :param env: a task's name as in :func:`make`, or a function that makes one environment of your own
    :param num_envs: how many environments step together
    :param seed: environment ``i`` starts from ``seed + i``
    :param shift: as in :func:`make`; not for a function
    :param vec: ``"threads"`` (Gymnasium's MuJoCo tasks only: the physics in parallel, in this process), ``"workers"``
        (a process per core, which share the environments), ``"dummy"`` (one after the other), or ``"auto"``
        (threads for Gymnasium's MuJoCo tasks; workers for robosuite where there are several cores, for
        Safety-Gymnasium where there are more than two; else ``"dummy"``); all give the same numbers
    :raises TaskError: as :func:`make`, or an unknown ``vec``
    :raises WorkerError: an environment could not be made in a worker
    """
    from stable_baselines3.common.vec_env import DummyVecEnv  # imports torch: seconds

    if isinstance(env, str):
        name, task = env, get_task(env)
        check_installed(task.package)  # errors here, not in a child process
        shift, best = read_shift(name, shift), task.vec
        if best == "workers" and usable_cores() < task.workers_from:
            best = "dummy"

        def make_one() -> gym.Env:
            return make(name, shift=shift)
    else:
        if shift is not None:
            raise TaskError(f"shift={shift!r}: a function makes its environments as they are. Put the shift in there.")
        make_one, best = env, "dummy"

    def threads() -> VecEnv:
        from daft_rl.envs.batch.threads import ThreadedMujocoVecEnv

        return ThreadedMujocoVecEnv([make_one] * num_envs)

    def workers() -> VecEnv:
        from daft_rl.envs.batch.workers import WorkerVecEnv

        return WorkerVecEnv([make_one] * num_envs)

    engines: dict[str, Callable[[], VecEnv]] = {
        "threads": threads,
        "workers": workers,
        "dummy": lambda: DummyVecEnv([make_one] * num_envs),
    }
    if vec not in ("auto", *engines):
        raise unknown("vec", vec, ["auto", *engines])
    if num_envs < 1:
        raise TaskError(f"num_envs must be at least 1, got {num_envs}.")
    venv = engines[best if vec == "auto" else vec]()
    if seed is not None:
        venv.seed(seed)
        venv.action_space.seed(seed)
    return venv


def own_maker(env: gym.Env | Callable[[], gym.Env]) -> Callable[[], gym.Env]:
    """A function that makes environments like the one given; a function is that already.

    :param env: copied, with whatever was changed in it; where it cannot be, made anew as ``gymnasium.make`` made it
    :raises TaskError: it is no environment, or cannot be copied
    """
    if not isinstance(env, gym.Env):
        if callable(env):
            return env
        raise TaskError(f"Expected a Gymnasium environment or a function that makes one, got {type(env).__name__}.")

    def again() -> gym.Env:
        return gym.make(env.spec)  # type: ignore[arg-type]

    def copied() -> gym.Env:
        return copy.deepcopy(env)

    for way in (copied, again):
        try:
            other = way()
            other.close()
        except Exception:  # environments fail as they like; the other way may do
            continue
        if _physics(other) == _physics(env):
            return way
    raise TaskError(
        f"{env} cannot be copied, nor made again as it is (was it changed after it was made?): pass a function that "
        "makes one, such as `lambda: MyEnv()`."
    )


def _physics(env: gym.Env) -> bytes | None:
    """MuJoCo's model in an environment, if it has one: Gymnasium's tasks are copied by being made anew, without it."""
    model = getattr(env.unwrapped, "model", None)
    if type(model).__module__.partition(".")[0] != "mujoco":
        return None
    import mujoco
    import numpy as np

    stored = np.empty(mujoco.mj_sizeModel(model), dtype=np.uint8)
    mujoco.mj_saveModel(model, None, stored)
    return stored.tobytes()


def register_task(name: str) -> str:
    """Register a task with Gymnasium, if it is not yet.

    :return: its id, ``daft_rl/NAME-v0``
    """
    id = f"daft_rl/{name}" if SAFETY_ID.fullmatch(name) else f"daft_rl/{name}-v0"
    if id not in gym.registry:
        gym.register(
            id=id,
            entry_point="daft_rl.envs.registry:make_task",
            max_episode_steps=get_task(name).max_episode_steps,
            kwargs={"name": name},
        )
    return id


def register_tasks() -> None:
    """Register every task with Gymnasium."""
    for name in task_names():
        register_task(name)
