"""Names for every entry of an environment's observation and action, by which a policy moves to another body.

An environment tells its names itself, by the attributes ``observation_names`` and ``action_names``: texts in the order
of the vector, or of the choices; for ``Dict`` observations a mapping from keys to such lists. robosuite's and
Safety-Gymnasium's tasks do. Those of a MuJoCo environment without names come from its model
(:mod:`daft_rl.envs.mujoco.names`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from daft_rl.errors import TaskError

__all__ = ["Names", "UnknownNamesError", "check_names", "count_entries", "entry_names", "indexed", "observation_names"]


class UnknownNamesError(TaskError):
    """Nobody tells the names of an environment's entries."""


@dataclass(frozen=True)
class Names:
    """The names of all entries, in order. Those of a ``Dict`` observation begin with the key: ``camera.x``."""

    observation: tuple[str, ...]
    action: tuple[str, ...]


def indexed(name: str, count: int) -> list[str]:
    """Names of the entries of a vector: ``force[0]``, ``force[1]``; the name itself if there is only one."""
    return [name] if count == 1 else [f"{name}[{i}]" for i in range(count)]


def count_entries(space: spaces.Space[Any]) -> int | None:
    """How many entries have names of their own; ``None`` if it is no vector, no choice, and no ``Dict`` of vectors."""
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return space.shape[0]
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.Dict):
        counts = [count_entries(part) if isinstance(part, spaces.Box) else None for part in space.spaces.values()]
        return None if None in counts else sum(filter(None, counts))
    return None


def entry_names(env: gym.Env) -> Names:
    """The names of an environment's observation and action.

    :param env: an environment, maybe in wrappers
    :raises UnknownNamesError: it has no names and no MuJoCo model that tells them
    :raises TaskError: there are too few, too many or equal ones, or a wrapper may move entries
    """
    return Names(observation_names(env), _names_of(env, "action"))


def observation_names(env: gym.Env) -> tuple[str, ...]:
    """The names of an environment's observation alone, see :func:`entry_names`."""
    return _names_of(env, "observation")


def _names_of(env: gym.Env, what: str) -> tuple[str, ...]:
    names = _told(env, what)
    if names is None:
        _refuse_unknown_wrappers(env, env.unwrapped, what, UnknownNamesError)
        names = getattr(_infer(env), what)
    check_names(f"{what}_names", names, getattr(env, f"{what}_space"))
    return names


def _told(env: gym.Env, what: str) -> tuple[str, ...] | None:
    """The names that an environment or a wrapper tells itself."""
    attribute = f"{what}_names"
    if not env.has_wrapper_attr(attribute):
        return None
    teller = env
    while isinstance(teller, gym.Wrapper) and not hasattr(teller, attribute):
        teller = teller.env
    _refuse_unknown_wrappers(env, teller, what, TaskError)
    names, space = getattr(teller, attribute), getattr(env, f"{what}_space")
    if isinstance(names, Mapping) and isinstance(space, spaces.Dict):
        names = [f"{key}.{name}" for key in space.spaces for name in names.get(key, ())]
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TaskError(f"{attribute}: expected a list of texts, one for each entry, got {names!r}.")
    return tuple(names)


def check_names(where: str, names: tuple[str, ...], space: spaces.Space[Any]) -> None:
    """
    :param where: what the message calls the names
    :param space: whose entries they name
    :raises UnknownNamesError: its entries have no names
    :raises TaskError: there are too few, too many or equal ones, or one has several lines
    """
    count = count_entries(space)
    if count is None:
        raise UnknownNamesError(
            f"{where}: only vectors and choices have names for their entries, and the space is {space}."
        )
    unprintable = next((name for name in names if not name.isprintable()), None)
    if unprintable is not None:
        raise TaskError(f"{where}: {unprintable!r} cannot be printed in one line.")
    if len(names) != count:
        raise TaskError(f"{where} has {len(names)} names for {count} entries: {', '.join(names)}.")
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise TaskError(f"{where} has '{twice}' twice. Give each entry a name of its own.")


def _refuse_unknown_wrappers(env: gym.Env, teller: gym.Env, what: str, error: type[TaskError]) -> None:
    """Names hold only if nothing between who tells them and the agent moves entries.

    :raises TaskError: of the class ``error``, a wrapper may do so
    """
    kind = gym.ObservationWrapper if what == "observation" else gym.ActionWrapper
    count = count_entries(getattr(teller, f"{what}_space"))
    while env is not teller and isinstance(env, gym.Wrapper):
        in_order = type(env).__module__.startswith("daft_rl.") or type(env) in _IN_ORDER
        if (isinstance(env, kind) and not in_order) or count_entries(getattr(env, f"{what}_space")) != count:
            raise error(
                f"The wrapper {type(env).__name__} may change the order of entries. Give it the attributes "
                "observation_names and action_names, lists of texts."
            )
        env = env.env


_IN_ORDER = (
    gym.wrappers.RescaleAction,
    gym.wrappers.ClipAction,
    gym.wrappers.RescaleObservation,
    gym.wrappers.DtypeObservation,
    gym.wrappers.NormalizeObservation,
)
"""Wrappers of Gymnasium that change values and leave them where they are."""


def _infer(env: gym.Env) -> Names:
    if type(getattr(env.unwrapped, "model", None)).__module__.partition(".")[0] == "mujoco":
        try:
            from daft_rl.envs.mujoco.names import infer_names
        except ImportError:
            pass
        else:
            return infer_names(env.unwrapped)
    raise UnknownNamesError(
        f"The entries of {env.unwrapped} have no names. Give the environment the attributes observation_names and "
        "action_names, lists of texts."
    )
