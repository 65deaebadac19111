"""Weights and statistics for vectors of another length: common entries are kept, new ones start at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from daft_rl.archives.vecnormalize import RunningMoments, VecNormalizeStatistics
from daft_rl.errors import AgentError

__all__ = ["adapt_state", "check_adaptable", "resize_statistics"]

Size = tuple[int, int]
"""How many entries something had in the archive, and how many it has now."""


def check_adaptable(what: str, stored: spaces.Space[Any] | None, actual: spaces.Space[Any]) -> Size:
    """The sizes of a space in the archive and in the environment.

    :param what: ``"observation"`` or ``"action"``
    :raises AgentError: they are not both vectors, or both numbers of choices
    """
    for cls in (spaces.Box, spaces.Discrete):
        alike = isinstance(stored, cls) and isinstance(actual, cls)
        if alike and len(stored.shape or ()) == len(actual.shape or ()) < 2:  # type: ignore[union-attr]
            return spaces.flatdim(stored), spaces.flatdim(actual)  # type: ignore[arg-type]
    raise AgentError(
        "adapt_spaces works for vectors of another length and for another number of choices. The agent's "
        f"{what} space is {stored}, the environment's {actual}.",
        arguments=("adapt_spaces",),
    )


def adapt_state(
    policy: nn.Module, state: Mapping[str, Tensor], observation: Size, action: Size, quantiles: int = 1
) -> tuple[dict[str, Tensor], list[str]]:
    """A state dictionary for the new sizes. Rows and columns of common entries keep their values, others are fresh.

    Entries that are missing now, and entries that are new, are taken to be the last ones.

    :param policy: with networks of the new sizes, freshly initialized
    :param state: of the old sizes
    :param observation: entries of an observation, before and now
    :param action: entries of an action, or choices, before and now
    :param quantiles: of the value of each choice; a network gives the first quantile of all choices, then the second
    :return: the dictionary, and a text about each tensor that has changed
    :raises AgentError: a tensor differs in another way
    """
    if _ambiguous(observation, action):
        raise AgentError(
            f"adapt_spaces: observations and actions had {observation[0]} + {action[0]} entries and now have "
            f"{observation[1]} + {action[1]}, the same sum, so a critic's layers do not show which entries changed. "
            "Change one at a time.",
            arguments=("adapt_spaces",),
        )
    adapted, changed = {}, []
    for name, fresh in policy.state_dict().items():
        old = state.get(name)
        if old is None:
            continue
        if old.shape == fresh.shape or old.ndim != fresh.ndim:
            adapted[name] = old
            continue
        adapted[name] = _adapt_tensor(name, old, fresh, observation, action, quantiles)
        changed.append(f"{name} {tuple(old.shape)} -> {tuple(fresh.shape)}")
    adapted |= {name: tensor for name, tensor in state.items() if name not in adapted}
    return adapted, changed


def _ambiguous(observation: Size, action: Size) -> bool:
    return observation[0] + action[0] == observation[1] + action[1] and observation[0] != observation[1]


def _adapt_tensor(name: str, old: Tensor, fresh: Tensor, observation: Size, action: Size, quantiles: int) -> Tensor:
    tensor = fresh.clone()
    kept_old, kept_new = [], []
    for size in zip(old.shape, fresh.shape, strict=True):
        pieces = _split(size, observation, action, quantiles)
        if pieces is None:
            raise AgentError(
                f"adapt_spaces: '{name}' has shape {tuple(old.shape)} in the archive and {tuple(fresh.shape)} now, "
                "which is more than entries of observations or actions.",
                arguments=("adapt_spaces",),
            )
        starts = np.cumsum([(0, 0), *pieces], axis=0)
        common = [np.arange(min(piece)) for piece in pieces]
        kept_old.append(torch.as_tensor(np.concatenate([s[0] + c for s, c in zip(starts, common, strict=False)])))
        kept_new.append(torch.as_tensor(np.concatenate([s[1] + c for s, c in zip(starts, common, strict=False)])))
    tensor[torch.meshgrid(*kept_new, indexing="ij")] = old[torch.meshgrid(*kept_old, indexing="ij")].to(tensor)
    return tensor


def _split(size: Size, observation: Size, action: Size, quantiles: int) -> list[Size] | None:
    """The parts of an axis, in order: observation, action, both, features and action, or quantiles of all actions."""
    if size[0] == size[1]:
        return [size]
    both = observation[0] + action[0], observation[1] + action[1]
    parts = {observation: [observation], action: [action], both: [observation, action]}.get(size)
    if size == (quantiles * action[0], quantiles * action[1]):
        return [action] * quantiles
    rest = size[0] - action[0], size[1] - action[1]
    if parts is None and rest[0] == rest[1] > 0:  # a critic's layer takes features and action
        return [rest, action]
    return parts


def resize_statistics(statistics: VecNormalizeStatistics, space: spaces.Space[Any]) -> VecNormalizeStatistics:
    """Statistics for longer or shorter observation vectors. New entries get mean 0 and variance 1."""
    obs = statistics.obs
    if not isinstance(obs, RunningMoments) or obs.mean.ndim != 1 or len(space.shape or ()) != 1:
        return statistics
    size = spaces.flatdim(space)
    extra = max(size - len(obs.mean), 0)
    mean = np.concatenate([obs.mean[:size], np.zeros(extra)])
    return replace(statistics, obs=RunningMoments(mean, np.concatenate([obs.var[:size], np.ones(extra)]), obs.count))
