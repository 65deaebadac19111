"""Which environments the rules of Gymnasium's MuJoCo tasks cover."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from daft_rl.envs.mujoco.rules import RULES, TaskRules
from daft_rl.envs.replay import Replayable
from daft_rl.envs.wrappers import ActionDelay, MissingSensors, ObservationShift
from daft_rl.errors import TaskError

__all__ = ["find_rules", "wrappers_of"]

WRAPPERS = (TimeLimit, OrderEnforcing, PassiveEnvChecker, ObservationShift, MissingSensors, ActionDelay, Replayable)

# The rules replace these methods, so a subclass must not redefine them. It may redefine how a task is built and
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


def find_rules(env: gym.Env) -> type[TaskRules]:
    """Find the rules of an environment's task.

    :raises TaskError: the rules do not cover the task, a wrapper or the render mode
    """
    base = next((cls for cls in type(env.unwrapped).__mro__ if cls in RULES), None)
    problem = _problem(env, base)
    if problem or base is None:
        raise TaskError(
            f"Threads and vec='cuda' cannot step {env}: {problem}. They support Gymnasium's v5 tasks "
            f"{', '.join(cls.__name__ for cls in RULES)} in the wrappers "
            f"{', '.join(wrapper.__name__ for wrapper in WRAPPERS)}. Use vec='dummy' for others.",
            arguments=("vec",),
        )
    return RULES[base]
