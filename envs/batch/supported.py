"""Which environments threads can step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from daft_rl.envs.mujoco.batched_tasks import BATCHED_TASKS, BatchedTask
from daft_rl.envs.replay import Replayable
from daft_rl.envs.wrappers import ActionDelay, ObservationShift
from daft_rl.errors import TaskError

__all__ = ["find_batched_task", "wrappers_of"]

WRAPPERS = (TimeLimit, OrderEnforcing, PassiveEnvChecker, ObservationShift, ActionDelay, Replayable)

# A BatchedTask replaces these methods, so a subclass must not redefine them. It may redefine how a task is built and
# reset, and how its physics steps.
REPLACED = (
    "step",
    "do_simulation",
    "state_vector",
    "_get_obs",
    "_get_rew",
    "control_cost",
    "contact_cost",
    "contact_forces",
    "healthy_reward",
    "is_healthy",
)


def wrappers_of(env: gym.Env) -> list[Any]:
    """The wrappers of an environment, outermost first."""
    found: list[Any] = []
    while isinstance(env, gym.Wrapper):
        found.append(env)
        env = env.env
    return found


def _problem(env: gym.Env, base: type | None) -> str:
    """Why threads cannot step an environment; empty if they can.

    :param base: the supported task that the environment's class is or inherits from; ``None`` without one
    """
    core: Any = env.unwrapped
    strange = [type(wrapper).__name__ for wrapper in wrappers_of(env) if type(wrapper) not in WRAPPERS]
    if base is None:
        return f"'{type(core).__name__}' is no supported task"
    if changed := [name for name in REPLACED if getattr(type(core), name, 0) is not getattr(base, name, 0)]:
        return f"'{type(core).__name__}' redefines {', '.join(changed)} of {base.__name__}"
    if strange:
        return f"the wrapper {', '.join(strange)} is not supported (for episode statistics use SB3's VecMonitor)"
    if core.render_mode == "human":
        return "render_mode='human' renders in the step that threads replace (use 'rgb_array')"
    return ""


def find_batched_task(env: gym.Env) -> type[BatchedTask]:
    """Find the batched computation of an environment's task.

    :raises TaskError: threads do not support the task, a wrapper or the render mode
    """
    base = next((cls for cls in type(env.unwrapped).__mro__ if cls in BATCHED_TASKS), None)
    problem = _problem(env, base)
    if problem or base is None:
        raise TaskError(
            f"Threads cannot step {env}: {problem}. They support Gymnasium's v5 tasks "
            f"{', '.join(cls.__name__ for cls in BATCHED_TASKS)} in the wrappers "
            f"{', '.join(wrapper.__name__ for wrapper in WRAPPERS)}. Use vec='dummy' for others.",
            arguments=("vec",),
        )
    return BATCHED_TASKS[base]
