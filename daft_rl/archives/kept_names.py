"""The names of an agent's entries, kept in its archive: what it last learnt on may not be the body of its task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.envs.names import Names

__all__ = ["keep_names", "kept_names"]

ATTRIBUTE = "entry_names"
"""Of the algorithm object. SB3 saves it with the others, and gives it back."""


def keep_names(model: BaseAlgorithm, names: Names | None) -> None:
    """Let a model, and the archives that are saved of it, tell the names of its entries.

    :param names: ``None`` if they are not known
    """
    if names is None:
        vars(model).pop(ATTRIBUTE, None)
    else:
        setattr(model, ATTRIBUTE, {"observation": list(names.observation), "action": list(names.action)})


def kept_names(attributes: Mapping[str, Any]) -> Names | None:
    """The names among the attributes of an algorithm object, or of its archive; ``None`` if there are none."""
    kept = attributes.get(ATTRIBUTE)
    found: list[Any] = [kept.get(what) for what in ("observation", "action")] if isinstance(kept, dict) else [None]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in found):
        return None
    return Names(tuple(found[0]), tuple(found[1]))
