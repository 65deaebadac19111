"""Any environment that is registered with Gymnasium, with other constructor keywords as its shift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import gymnasium as gym

from daft_rl.envs.shift import Shift
from daft_rl.envs.wrappers import shift_interface
from daft_rl.errors import TaskError
from daft_rl.imports import load_object

__all__ = ["RegisteredShift", "make_registered"]


@dataclass(frozen=True, kw_only=True)
class RegisteredShift(Shift):
    """How a registered environment is made."""

    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of its constructor, as ``gymnasium.make(id, **kwargs)`` takes them."""
    wrappers: tuple[str, ...] = ()
    """Wrappers around it, the first one innermost, each by import path: ``"my_package:MyWrapper"``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.kwargs, Mapping) or not all(isinstance(name, str) for name in self.kwargs):
            raise TaskError(f"shift.kwargs: expected keywords and their values, got {self.kwargs!r}.")
        if isinstance(self.wrappers, str) or not all(isinstance(path, str) for path in self.wrappers):
            raise TaskError(f"shift.wrappers: expected a list of import paths, got {self.wrappers!r}.")
        object.__setattr__(self, "wrappers", tuple(self.wrappers))


def find_registered(id: str) -> gym.envs.registration.EnvSpec:
    """The registration of an id, after the import of its module if it names one.

    :param id: ``Pendulum-v1`` or ``my_package:MyEnv-v0``
    :raises TaskError: no such module, or nothing registered by that name
    """
    module, _, name = id.rpartition(":")
    try:
        if module:
            import_module(module)
        return gym.spec(name)
    except (ImportError, gym.error.Error) as error:
        raise TaskError(
            f"env.id={id}: {' '.join(str(error).split())} Expected an id that is registered with Gymnasium, as "
            "'my_package:MyEnv-v0' if a module has to be imported for that."
        ) from error


def make_registered(id: str, shift: RegisteredShift, render_mode: str | None = None) -> gym.Env:
    """Make a registered environment, with its wrappers and with what the shift says of observations and actions.

    :param id: as Gymnasium knows it; the part before a colon is imported
    :param shift: how it is made
    :param render_mode: passed on if it is not ``None``
    :raises TaskError: a wrapper cannot be imported, or the environment does not take the keywords
    """
    wrappers = [load_object(path, TaskError) for path in shift.wrappers]
    keywords: dict[str, Any] = {**shift.kwargs, **({"render_mode": render_mode} if render_mode else {})}
    try:
        env = gym.make(id, disable_env_checker=True, **keywords)
    except TypeError as error:
        raise TaskError(f"{id} cannot be made with {dict(shift.kwargs)}: {error}") from error
    for wrapper in wrappers:
        env = wrapper(env)
    return shift_interface(env, shift)
