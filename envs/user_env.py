"""Environments that the user passes as Python objects."""

from __future__ import annotations

import copy
from collections.abc import Callable

import gymnasium as gym

from daft_rl.errors import DaftError, TaskError

__all__ = ["UserEnv", "env_factory", "env_name"]

UserEnv = gym.Env | Callable[[], gym.Env]
"""An environment, or a function that makes one."""


def env_factory(env: UserEnv) -> Callable[[], gym.Env]:
    """Find a function that makes environments like the given one.

    :param env: a function is called, and what it makes is checked. An environment is copied, with whatever was changed
        in it, or made again as ``gymnasium.make`` made it
    :raises TaskError: it is no environment, or it can neither be copied nor be made again
    """
    if not isinstance(env, gym.Env):
        if callable(env):
            return _checked(env)
        raise TaskError(f"Expected a Gymnasium environment or a function that makes one, got {type(env).__name__}.")

    def copy_env() -> gym.Env:
        return copy.deepcopy(env)

    def make_again() -> gym.Env:
        return gym.make(env.spec)  # type: ignore[arg-type]

    for factory in (copy_env, make_again):
        try:
            trial = factory()
            trial.close()
        except Exception:  # environments raise what they like; the second way may work
            continue
        if _mujoco_model(trial) == _mujoco_model(env):
            return factory
    raise TaskError(
        f"{env} cannot be copied, nor made again as it is (was it changed after it was made?). Pass a function that "
        "makes one, such as `lambda: MyEnv()`."
    )


def _checked(function: Callable[[], gym.Env]) -> Callable[[], gym.Env]:
    """A function whose failures are named. It is called as often as without: what it makes may depend on that."""

    def make_env() -> gym.Env:
        try:
            made = function()
        except DaftError:
            raise
        except Exception as error:  # it may raise anything
            raise TaskError(
                f"The environment '{env_name(function)}' cannot be made: {type(error).__name__}: "
                f"{' '.join(str(error).split())}"
            ) from error
        if not isinstance(made, gym.Env):
            raise TaskError(f"'{env_name(function)}' makes no Gymnasium environment, got {type(made).__name__}.")
        return made

    return make_env


def _mujoco_model(env: gym.Env) -> bytes | None:
    """The MuJoCo model of an environment; ``None`` if it has none.

    A copy of Gymnasium's MuJoCo tasks is made anew and does not keep changes of the model.
    """
    model = getattr(env.unwrapped, "model", None)
    if type(model).__module__.partition(".")[0] != "mujoco":
        return None
    import mujoco
    import numpy as np

    stored = np.empty(mujoco.mj_sizeModel(model), dtype=np.uint8)
    mujoco.mj_saveModel(model, None, stored)
    return stored.tobytes()


def env_name(env: UserEnv) -> str:
    """A name for an environment: its id, its class, or the name of the function."""
    if isinstance(env, gym.Env):
        return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    name = getattr(env, "__name__", type(env).__name__)
    return "own" if name == "<lambda>" else name
