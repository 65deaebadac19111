"""Make environments and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from daft_rl.envs.cores import usable_cores
from daft_rl.envs.dependencies import require_installed
from daft_rl.envs.randomization import BANK, ShiftRange, draw_shifts
from daft_rl.envs.registry import Task, get_task, make_task, read_shift, register_task
from daft_rl.envs.replay import Replayable
from daft_rl.envs.shift import Shift
from daft_rl.errors import TaskError
from daft_rl.validation import unknown_name

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

__all__ = ["make", "make_vec"]

AnyShift = Shift | ShiftRange | Mapping[str, Any] | str | None
"""Any notation of a shift, see :func:`daft_rl.envs.read_shift`."""
VEC_KINDS = ("auto", "threads", "workers", "dummy", "cuda")


def make(
    name: str,
    shift: AnyShift = None,
    seed: int | None = None,
    render_mode: str | None = None,
) -> gym.Env:
    """Make a task.

    :param name: for instance ``"Ant"`` or ``"Ant-shifted"``; see :func:`daft_rl.envs.registry.get_task`
    :param shift: what differs from the source task, see :func:`daft_rl.envs.read_shift`; ``None`` is the default shift
    :param seed: seeds the first reset and the action space
    :param render_mode: ``"rgb_array"`` or ``"human"``
    :return: a Gymnasium environment with its time limit
    :raises TaskError: a task, level or field does not exist, or a value is impossible
    """
    if get_task(name).registered:
        env = make_task(name, shift, render_mode)
    else:
        env = gym.make(
            register_task(name),
            max_episode_steps=_other_length(name, shift),
            shift=shift,
            render_mode=render_mode,
            disable_env_checker=True,
        )
    if seed is not None:
        env.reset(seed=seed)
        env.action_space.seed(seed)
    return env


def _other_length(name: str, shift: AnyShift) -> int | None:
    """Steps of an episode, if the shift changes them."""
    read = read_shift(name, shift)
    length: int | None = (read.low if isinstance(read, ShiftRange) else read).changes().get("horizon")
    return length


def make_vec(
    env: str | Callable[[], gym.Env],
    num_envs: int = 8,
    seed: int | None = None,
    shift: AnyShift = None,
    vec: str = "auto",
    device: str = "cuda",
    step_timeout: float | None = None,
    replayable: bool = False,
) -> VecEnv:
    """Make a batch of one task as an SB3 ``VecEnv``.

    :param env: the name of a task as in :func:`make`, or a function that makes one environment of your own
    :param num_envs: number of environments that step together
    :param seed: environment ``i`` starts from ``seed + i``
    :param shift: as in :func:`make`; not for a function. Of a distribution each environment plays a shift of its own,
        environment ``i`` always the same one; after 64 they repeat
    :param vec: ``"threads"`` (Gymnasium's MuJoCo tasks only: parallel physics in this process), ``"workers"`` (one
        process per core, each with a share of the environments), ``"dummy"`` (one environment after the other), or
        ``"auto"`` (threads for Gymnasium's MuJoCo tasks; workers for robosuite from two cores on and for
        Safety-Gymnasium from three cores on; otherwise ``"dummy"``). All of them give the same numbers. ``"cuda"``
        simulates all environments at once on a GPU, equal to the others within the precision of ``float32``
    :param device: where ``vec="cuda"`` simulates: ``"cuda"``, ``"cuda:1"``, or ``"cpu"`` for tests
    :param step_timeout: seconds after which a step or a reset that has not ended is an error; ``None`` waits for ever.
        In workers it is noticed in any case. In this process only where Python runs or waits in the main thread, not
        while a simulator loops in machine code of its own
    :param replayable: whether the environments remember how their episodes came about, so that another process can go
        on in the middle of them (:mod:`daft_rl.envs.replay`)
    :raises TaskError: as :func:`make`, or ``vec`` does not exist
    :raises FaultyEnvironmentError: an environment could not be made; later, one that raised or returned nonsense
    """
    if vec not in VEC_KINDS:
        raise TaskError(unknown_name("vec", vec, VEC_KINDS))
    if num_envs < 1:
        raise TaskError(f"num_envs: expected at least 1, got {num_envs}.")
    if vec == "cuda":
        return _worlds(env, num_envs, seed, shift, device)
    if isinstance(env, str):
        task = get_task(env)
        require_installed(task.package)  # raises here instead of in a child process
        bank = _bank(env, shift, num_envs)
        makers, fastest = [_maker(env, drawn) for drawn in bank], fastest_kind(task, bank[0])
    elif shift is None:
        makers, fastest = [env], "dummy"
    else:
        raise TaskError(f"shift={shift!r}: a function makes its environments as they are. Put the shift in there.")
    makers = [makers[i % len(makers)] for i in range(num_envs)]
    if replayable:
        makers = [_replayable(make_one, i) for i, make_one in enumerate(makers)]
    venv = _batch(makers, fastest if vec == "auto" else vec, step_timeout)
    if seed is not None:
        venv.seed(seed)
        venv.action_space.seed(seed)
    return venv


def _maker(name: str, shift: Shift) -> Callable[[], gym.Env]:
    def make_one() -> gym.Env:
        return make(name, shift=shift)

    return make_one


def _bank(name: str, shift: AnyShift, num_envs: int) -> list[Shift]:
    """The different shifts of a batch."""
    read = read_shift(name, shift)
    return draw_shifts(read, 1 if isinstance(read, Shift) else min(num_envs, BANK))


def _worlds(
    env: str | Callable[[], gym.Env],
    num_envs: int,
    seed: int | None,
    shift: AnyShift,
    device: str,
) -> VecEnv:
    if not isinstance(env, str):
        raise TaskError("vec='cuda' simulates tasks by their names, no environments of your own. Use vec='auto'.")
    require_installed(get_task(env).package)
    require_installed("mujoco_warp")
    from daft_rl.envs.cuda.build import make_worlds
    from daft_rl.envs.cuda.vec_env import WorldsVecEnv

    return WorldsVecEnv(make_worlds(env, num_envs, _bank(env, shift, num_envs), device, seed))


def _replayable(make_one: Callable[[], gym.Env], number: int) -> Callable[[], gym.Env]:
    def make_replayable() -> gym.Env:
        return Replayable(make_one(), number)

    return make_replayable


def fastest_kind(task: Task, shift: Shift | None) -> str:
    """What ``vec="auto"`` means: wrappers of others see one environment at a time."""
    if getattr(shift, "wrappers", ()) or (task.vec == "workers" and usable_cores() < task.workers_from):
        return "dummy"
    return task.vec


def _batch(env_fns: list[Callable[[], gym.Env]], kind: str, step_timeout: float | None) -> VecEnv:
    """Import on use: PyTorch, which SB3 imports, takes seconds."""
    if kind == "threads":
        from daft_rl.envs.batch.threads import ThreadedMujocoVecEnv

        return ThreadedMujocoVecEnv(env_fns, step_timeout=step_timeout)
    if kind == "workers":
        from daft_rl.envs.batch.workers import WorkerVecEnv

        return WorkerVecEnv(env_fns, step_timeout=step_timeout)
    from daft_rl.envs.batch.serial import SerialVecEnv

    return SerialVecEnv(env_fns, step_timeout)
