"""What a file of the configuration may not decide: who gets such files from others must not run their code by that."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import OmegaConf

from daft_rl.composing import compose_parts
from daft_rl.errors import ConfigError
from daft_rl.settings import RunSettings

__all__ = ["has_foreign_files", "refuse_hydra", "refuse_unsaid"]

OWN_WORD = ("agent.trust", "overwrite")
"""Settings that count on the command line only: one executes code, the other deletes results."""
HARMLESS = re.compile(
    r"hydra\.(run\.dir|sweep\.(dir|subdir)|launcher\.n_jobs|verbose|searchpath|sweeper\.params(\..*)?"
    r"|(runtime|overrides)\..*|job\.(override_dirname|config_name|id|num))"
)
"""What files may say to Hydra: where a run writes, what a sweep goes through; and what Hydra itself notes."""


def has_foreign_files(overrides: Sequence[str]) -> bool:
    """Whether the configuration may hold files that do not come with daft_rl.

    :param overrides: of the command line
    """
    return any(_key(item) == "hydra.searchpath" for item in overrides)


def refuse_unsaid(settings: RunSettings, overrides: Sequence[str]) -> None:
    """
    :param overrides: of the command line
    :raises ConfigError: a setting comes from a file that only the command line may set
    """
    agent = getattr(settings, "agent", None)
    given = {"agent.trust": agent is not None and agent.trust, "overwrite": settings.overwrite}
    for key in OWN_WORD:
        if given[key] and not any(_key(item) == key for item in overrides):
            raise ConfigError(
                f"{key}=true is in a file of the configuration, and counts on the command line only. If you want it, "
                f"say {key}=true there."
            )


def refuse_hydra(name: str, hydra: Any, overrides: Sequence[str]) -> None:
    """Hydra calls and executes what its part of a configuration says. Files may change only harmless entries of it.

    :param name: of the program's configuration
    :param hydra: the part ``hydra`` of the configuration, as plain data without interpolations resolved
    :param overrides: of the command line, whose writer may say anything
    :raises ConfigError: a file says something else
    """
    if not has_foreign_files(overrides):
        return
    for key in hydra["sweeper"].get("params") or {}:
        if _key(str(key)) in OWN_WORD or _key(str(key)).startswith("hydra"):
            raise ConfigError(
                f"hydra.sweeper.params.{key}: a file may not sweep over this. Say it on the command line."
            )
    trusted, found = dict(_leaves(_shipped(name, hydra, overrides), "hydra")), dict(_leaves(hydra, "hydra"))
    for key in {**found, **trusted}:
        if not HARMLESS.fullmatch(key) and found.get(key) != trusted.get(key):
            raise ConfigError(
                f"{key}={found.get(key)}: a file of the configuration says this to Hydra, which could run code by it. "
                f"If you trust the file, say so on the command line: ++{key}={found.get(key)}."
            )


def _shipped(name: str, hydra: Any, overrides: Sequence[str]) -> Any:
    """The part ``hydra`` as it is without foreign files, but with the launcher and the like that they choose.

    :raises ConfigError: they choose one of their own
    """
    own = [item for item in overrides if _key(item).startswith("hydra") and not HARMLESS.fullmatch(_key(item))]
    said = {_key(item) for item in own}
    choices = {str(key): choice for key, choice in hydra["runtime"]["choices"].items()}
    own += [
        f"{key}={choice}"
        for key, choice in choices.items()
        if key.startswith("hydra/") and {key, choice}.isdisjoint({*said, None})
    ]
    return OmegaConf.to_container(compose_parts(name, own, with_hydra=True).hydra, resolve=False)


def _key(override: str) -> str:
    return override.partition("=")[0].strip(" \t+~")


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}")
    else:
        yield key, node
