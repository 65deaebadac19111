"""Environments of Gymnasium's registry. Their shift is a change of constructor keywords."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import field
from importlib import import_module
from inspect import isfunction
from typing import Any

import gymnasium as gym

from daft_rl.envs.shift import Shift
from daft_rl.envs.whole_episodes import TaskReturns
from daft_rl.envs.wrappers import shift_interface
from daft_rl.errors import DaftError, TaskError
from daft_rl.imports import load_object
from daft_rl.validation import Text, checked

__all__ = ["RegisteredShift", "find_registered", "make_registered", "make_with", "make_with_wrappers"]


@checked(TaskError, "shift")
class RegisteredShift(Shift):
    """How a registered environment is made."""

    kwargs: dict[Text, Any] = field(default_factory=dict)
    """Keywords of its constructor, as in ``gymnasium.make(id, **kwargs)``."""
    wrappers: tuple[Text, ...] = ()
    """Import paths of wrappers, innermost first: ``"my_package:MyWrapper"``, a class or a function of yours."""

    @classmethod
    def fields_of_body(cls) -> tuple[str, ...]:
        """See :meth:`Shift.fields_of_body`."""
        return ("kwargs", "wrappers", *super().fields_of_body())


def find_registered(id: str) -> gym.envs.registration.EnvSpec:
    """Find a registration. If the id names a module, import the module first.

    :param id: ``Pendulum-v1`` or ``my_package:MyEnv-v0``
    :raises TaskError: the module does not exist, or nothing has that id
    """
    module, _, name = id.rpartition(":")
    try:
        if module:
            import_module(module)
        return gym.spec(name)
    except Exception as error:  # a module may raise anything while it is imported
        raise TaskError(
            f"'{id}': {' '.join(str(error).split())} Expected an id that is registered with Gymnasium, as "
            "'my_package:MyEnv-v0' if a module has to be imported for that.",
            arguments=("env",),
        ) from error


def _load_wrapper(path: str) -> Callable[[gym.Env], gym.Env]:
    """A settings file may come from a stranger: nothing is called but classes of environments and functions written in
    Python outside of its standard library, and these with the environment alone.

    :raises TaskError: there is no such object, or it is none
    """
    found = load_object(path, TaskError)
    is_class = isinstance(found, type) and issubclass(found, gym.Env)
    if not is_class and not (isfunction(found) and _top_module(found) not in sys.stdlib_module_names):
        raise TaskError(
            f"wrappers: '{path}' is no wrapper, got {found!r}. Expected a class derived from gymnasium.Wrapper, or a "
            "function of yours that takes an environment and returns one.",
            arguments=("wrappers",),
        )
    return found  # type: ignore[no-any-return]


def _top_module(function: Callable[..., Any]) -> str:
    return str(function.__module__).partition(".")[0]


def _wrap(env: gym.Env, path: str, wrapper: Callable[[gym.Env], gym.Env]) -> gym.Env:
    """
    :raises TaskError: the wrapper fails, or returns something else
    """
    try:
        wrapped = wrapper(env)
    except Exception as error:  # a wrapper may raise anything
        raise TaskError(
            f"wrappers: '{path}' cannot wrap {env.unwrapped}: {type(error).__name__}: {' '.join(str(error).split())}. "
            "If it needs arguments, name a function of yours that takes an environment and returns "
            f"{path.rpartition(':')[2]}(env, ...).",
            arguments=("wrappers",),
        ) from error
    if not isinstance(wrapped, gym.Env):
        raise TaskError(
            f"wrappers: '{path}' returns {type(wrapped).__name__}, expected a Gymnasium environment.",
            arguments=("wrappers",),
        )
    return wrapped


def make_with(registered: str | gym.envs.registration.EnvSpec, keywords: Mapping[str, Any], **further: Any) -> gym.Env:
    """``gymnasium.make`` with errors in one line.

    :param registered: an id as Gymnasium knows it, whose part before a colon is imported; or what is registered
    :param keywords: the user's, for the environment's constructor
    :param further: keywords of ours and Gymnasium's
    :raises TaskError: the environment cannot be made
    """
    id = registered if isinstance(registered, str) else registered.id
    try:
        return gym.make(registered, **further, **keywords)
    except DaftError:
        raise
    except Exception as error:  # an environment may raise anything
        given = f" with {dict(keywords)}" if keywords else ""
        raise TaskError(f"{id} cannot be made{given}: {_one_line(error).rstrip('.')}.{_advice(id, error)}") from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, TypeError) else f"{type(error).__name__}: {text}"


def _advice(id: str, error: Exception) -> str:
    """What to do about an environment that cannot be made: take a newer version, or install what is missing."""
    if not isinstance(error, ImportError | gym.error.DependencyNotInstalled):
        return ""
    spec = gym.spec(id)
    newer = [
        other.id
        for other in gym.registry.values()
        if (other.namespace, other.name) == (spec.namespace, spec.name) and (other.version or 0) > (spec.version or 0)
    ]
    return f" Gymnasium has {', '.join(newer)} too." if newer else " Install what is missing, or take another id."


def make_registered(id: str, shift: RegisteredShift, render_mode: str | None = None) -> gym.Env:
    """Make a registered environment with its wrappers and with the shift's changes of observations and actions.

    :param id: as Gymnasium knows it; the part before a colon is imported
    :param shift: how it is made
    :param render_mode: passed on unless it is ``None``
    :raises TaskError: a wrapper cannot be imported or fails, or the environment does not take the keywords
    """
    return make_with_wrappers(id, shift, render_mode)


def make_with_wrappers(
    registered: str | gym.envs.registration.EnvSpec,
    shift: RegisteredShift,
    render_mode: str | None,
    keywords: Mapping[str, Any] | None = None,
) -> gym.Env:
    """As :func:`make_registered`.

    :param registered: see :func:`make_with`
    :param keywords: further ones for the constructor
    """
    wrappers = {path: _load_wrapper(path) for path in shift.wrappers}
    given: dict[str, Any] = {**shift.kwargs, **({"render_mode": render_mode} if render_mode else {})}
    env = make_with(registered, given, disable_env_checker=True, **(keywords or {}))
    if shift.wrappers:
        env = TaskReturns(env)
    for path in shift.wrappers:
        env = _wrap(env, path, wrappers[path])
    return shift_interface(env, shift)
