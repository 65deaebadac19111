"""Which correspondence a loaded agent gets: between the entries of its archive and those of its environment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces

from daft_rl.archives.build import Request
from daft_rl.archives.container import ArchiveContents
from daft_rl.archives.kept_names import kept_names
from daft_rl.archives.space_checks import find_spaces
from daft_rl.correspondence import Correspondence, Matching, by_positions, shorten
from daft_rl.envs.names import Names, count_entries
from daft_rl.errors import AgentError

__all__ = ["names_there", "settle_correspondence"]


def settle_correspondence(request: Request, contents: ArchiveContents) -> Request:
    """The request with a correspondence of entries, if some of them move.

    :param contents: of the archive
    :raises AgentError: the correspondence is for other entries than the archive's or the environment's
    """
    given = request.correspondence
    if request.env is None or given is None:
        return replace(request, correspondence=None)
    stored = find_spaces(contents, None, False)
    actual = request.env.observation_space, request.env.action_space
    found = by_positions(stored, actual) if isinstance(given, str) else given
    _refuse_other_body(found, kept_names(contents.attributes), contents)
    for what, before, now in zip(("observation", "action"), stored, actual, strict=True):
        matching: Matching = getattr(found, what)
        sizes = [len(matching.source), len(matching.target)]
        if sizes != [count_entries(before), count_entries(now)]:
            raise AgentError(
                f"The correspondence is of {sizes[0]} and {sizes[1]} entries of the {what}; {contents.path} has "
                f"{count_entries(before)}, the environment {count_entries(now)}.",
                arguments=("correspondence",),
            )
    _refuse_other_bounds(found.action, stored[1], actual[1])
    return replace(request, correspondence=None if found.is_identity else found)


def _refuse_other_body(found: Correspondence, kept: Names | None, contents: ArchiveContents) -> None:
    """
    :raises AgentError: the archive tells that it is of another body than the one where the correspondence begins
    """
    given = Names(found.observation.source, found.action.source)
    if not found.by_place and kept is not None and kept != given:
        raise AgentError(
            f"The correspondence begins with {shorten(given.action)} and {shorten(given.observation)}; the entries of "
            f"{contents.path} are {shorten(kept.action)} and {shorten(kept.observation)}. Make it from "
            "daft_rl.load_agent(PATH).entry_names.",
            arguments=("correspondence",),
        )


def names_there(request: Request, contents: ArchiveContents) -> Names | None:
    """The names that entries have where the agent will act: the archive's, unless a correspondence tells others."""
    given = request.correspondence
    if request.env is None or given is None:
        return kept_names(contents.attributes)
    return None if isinstance(given, str) else given.target_names


def _refuse_other_bounds(matching: Matching, stored: spaces.Space[Any], actual: spaces.Space[Any]) -> None:
    """
    :raises AgentError: an action that corresponds has other bounds, by which SB3 scales it
    """
    if not isinstance(stored, spaces.Box) or not isinstance(actual, spaces.Box):
        return
    now = [i for i, origin in enumerate(matching.origin) if origin is not None]
    before = [origin for origin in matching.origin if origin is not None]
    same = np.isclose(stored.low[before], actual.low[now]) & np.isclose(stored.high[before], actual.high[now])
    if not same.all():
        others = [matching.target[index] for index, equal in zip(now, same, strict=True) if not equal]
        raise AgentError(
            f"Actions that correspond have other bounds: {shorten(others)}. Wrap the environment so that they agree "
            "(gymnasium.wrappers.RescaleAction with the agent's bounds).",
            arguments=("wrappers",),
        )
