"""The names of an agent's entries, kept in its archive: what it last learnt on may not be the body of its task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.archives.text import read_space
from daft_rl.envs.names import Names, UnknownNamesError, check_names, count_entries
from daft_rl.errors import AgentError, TaskError

__all__ = ["keep_names", "kept_names", "kept_spaces"]

ATTRIBUTE = "entry_names"
"""Of the algorithm object. SB3 saves it with the others, and gives it back."""


def keep_names(model: BaseAlgorithm, names: Names | None) -> None:
    """Let a model, and the archives that are saved of it, tell the names of its entries.

    :param names: ``None`` if they are not known. Those of other entries than the model's, which wrappers have changed,
        are not kept
    """
    vars(model).pop(ATTRIBUTE, None)
    sizes = [count_entries(space) for space in (model.observation_space, model.action_space)]
    if names is not None and sizes == [len(names.observation), len(names.action)]:
        setattr(model, ATTRIBUTE, {"observation": list(names.observation), "action": list(names.action)})


def kept_names(attributes: Mapping[str, Any]) -> Names | None:
    """The names among the attributes of an algorithm object, or of its archive; ``None`` if there are none.

    :raises AgentError: there are too few, too many or equal ones
    """
    kept = attributes.get(ATTRIBUTE)
    found: list[Any] = [kept.get(what) for what in ("observation", "action")] if isinstance(kept, dict) else [None]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in found):
        return None
    names = Names(tuple(found[0]), tuple(found[1]))
    for what, space in zip(("observation", "action"), kept_spaces(attributes), strict=True):
        try:
            if space is not None:
                check_names(f"{ATTRIBUTE}['{what}'] of the agent", getattr(names, what), space)
        except UnknownNamesError:
            return None
        except TaskError as error:
            raise AgentError(f"{error} Load the agent with Stable-Baselines3, and delete or mend them.") from error
    return names


def kept_spaces(attributes: Mapping[str, Any]) -> tuple[Any, Any]:
    """Observation and action space among them; ``None`` for one that cannot be read."""
    given = [attributes.get(f"{what}_space") for what in ("observation", "action")]
    read = [one if isinstance(one, spaces.Space) else read_space(one) for one in given]
    observation, action = (None if isinstance(one, str) else one for one in read)
    return observation, action
