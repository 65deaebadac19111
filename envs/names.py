"""Names for every entry of an environment's observation and action, by which a policy moves to another body.

An environment tells its names itself, by the attributes ``observation_names`` and ``action_names``: texts in the order
of the vector, or of the choices; for ``Dict`` observations a mapping from keys to such lists. robosuite's and
Safety-Gymnasium's tasks do. Those of a MuJoCo environment without names come from its model
(:mod:`daft_rl.envs.mujoco.names`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from daft_rl.errors import TaskError

__all__ = ["Names", "count_entries", "entry_names", "indexed"]


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
    :raises TaskError: it has no names and no MuJoCo model that tells them; or there are too few, too many or equal ones
    """
    given = {what: _told(env, what) for what in ("observation", "action")}
    if None in given.values():
        _refuse_unknown_wrappers(env)
        inferred = _infer(env)
        given = {what: getattr(inferred, what) if names is None else names for what, names in given.items()}
    for what, names in given.items():
        _check(what, names or (), getattr(env, f"{what}_space"))
    return Names(**given)  # type: ignore[arg-type]


def _told(env: gym.Env, what: str) -> tuple[str, ...] | None:
    """The names that an environment or a wrapper tells itself."""
    attribute = f"{what}_names"
    if not env.has_wrapper_attr(attribute):
        return None
    names, space = env.get_wrapper_attr(attribute), getattr(env, f"{what}_space")
    if isinstance(names, Mapping) and isinstance(space, spaces.Dict):
        names = [f"{key}.{name}" for key in space.spaces for name in names.get(key, ())]
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TaskError(f"{attribute}: expected a list of texts, one for each entry, got {names!r}.")
    return tuple(names)


def _check(what: str, names: tuple[str, ...], space: spaces.Space[Any]) -> None:
    count = count_entries(space)
    if count is None:
        raise TaskError(f"Only vectors and choices have names for their entries, and the {what} space is {space}.")
    if len(names) != count:
        raise TaskError(f"{what}_names has {len(names)} names for {count} entries: {', '.join(names)}.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise TaskError(f"{what}_names has '{twice}' twice. Give each entry a name of its own.")


def _refuse_unknown_wrappers(env: gym.Env) -> None:
    """Names of the model hold only if nothing between model and agent moves entries.

    :raises TaskError: a wrapper may do so
    """
    core: Any = env.unwrapped
    while isinstance(env, gym.Wrapper):
        moves = isinstance(env, gym.ObservationWrapper | gym.ActionWrapper)
        ours = type(env).__module__.startswith("daft_rl.") or type(env) in _IN_ORDER
        sizes = [count_entries(space) for space in (env.observation_space, env.action_space)]
        if (moves and not ours) or sizes != [count_entries(core.observation_space), count_entries(core.action_space)]:
            raise TaskError(
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
    raise TaskError(
        f"The entries of {env.unwrapped} have no names. Give the environment the attributes observation_names and "
        "action_names, lists of texts."
    )
