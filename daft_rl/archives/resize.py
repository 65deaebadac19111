"""Agents for observations or actions of another size: what fits is kept, what is new starts at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from daft_rl.archives.vecnormalize import Moments, VecNormalizeStatistics
from daft_rl.errors import AgentError

__all__ = ["adapt_state", "check_adaptable", "resize_statistics"]

Part = tuple[int, int]
"""How many entries of something there were, and how many there are now."""


def check_adaptable(what: str, stored: spaces.Space | None, actual: spaces.Space) -> Part:
    """The sizes of a space in the archive and in the environment.

    :param what: ``"observation"`` or ``"action"``
    :raises AgentError: they are not both vectors, or both numbers of choices
    """
    for kind in (spaces.Box, spaces.Discrete):
        alike = isinstance(stored, kind) and isinstance(actual, kind)
        if alike and len(stored.shape or ()) == len(actual.shape or ()) < 2:  # type: ignore[union-attr]
            return spaces.flatdim(stored), spaces.flatdim(actual)  # type: ignore[arg-type]
    raise AgentError(
        f"adapt_spaces is for vectors of another length, or another number of choices; the agent's {what} space is "
        f"{stored}, the environment's {actual}."
    )


def adapt_state(
    policy: nn.Module, state: Mapping[str, Tensor], observation: Part, action: Part
) -> tuple[dict[str, Tensor], list[str]]:
    """A state dictionary for the new sizes: of rows and columns that were there the old values, of others fresh ones.

    The entries that are there no more, or are new, are taken to be the last ones.

    :param policy: with networks of the new sizes, freshly initialized
    :param state: of the old sizes
    :param observation: entries of an observation, before and now
    :param action: entries of an action, or choices, before and now
    :return: the dictionary, and a description of each tensor that was touched
    :raises AgentError: a tensor differs in another way
    """
    both = observation[0] + action[0], observation[1] + action[1]
    if both[0] == both[1] and observation[0] != observation[1]:
        raise AgentError(
            f"adapt_spaces: observations and actions have {observation[0]} + {action[0]} entries, now {observation[1]} "
            f"+ {action[1]}: as many, so that a critic's layers do not tell which is which. Change one at a time."
        )
    parts = {observation: [observation], action: [action], both: [observation, action]}
    adapted, touched = {}, []
    for name, fresh in policy.state_dict().items():
        old = state.get(name)
        if old is None or old.shape == fresh.shape or old.ndim != fresh.ndim:
            if old is not None:
                adapted[name] = old
            continue
        tensor = fresh.clone()
        kept_old, kept_new = [], []
        for sizes in zip(old.shape, fresh.shape, strict=True):
            pieces = [sizes] if sizes[0] == sizes[1] else parts.get(sizes)
            rest = sizes[0] - action[0], sizes[1] - action[1]
            if pieces is None and rest[0] == rest[1] > 0:  # a critic's layer takes features and action
                pieces = [rest, action]
            if pieces is None:
                raise AgentError(f"adapt_spaces: '{name}' has shape {tuple(old.shape)}, now {tuple(fresh.shape)}.")
            starts = np.cumsum([(0, 0), *pieces], axis=0)
            common = [np.arange(min(piece)) for piece in pieces]
            kept_old.append(torch.as_tensor(np.concatenate([s[0] + c for s, c in zip(starts, common, strict=False)])))
            kept_new.append(torch.as_tensor(np.concatenate([s[1] + c for s, c in zip(starts, common, strict=False)])))
        tensor[torch.meshgrid(*kept_new, indexing="ij")] = old[torch.meshgrid(*kept_old, indexing="ij")].to(tensor)
        adapted[name] = tensor
        touched.append(f"{name} {tuple(old.shape)} -> {tuple(fresh.shape)}")
    adapted |= {name: tensor for name, tensor in state.items() if name not in adapted}
    return adapted, touched


def resize_statistics(statistics: VecNormalizeStatistics, space: spaces.Space) -> VecNormalizeStatistics:
    """Statistics for longer or shorter observation vectors; new entries are left as they are (mean 0, variance 1)."""
    obs = statistics.obs
    if not isinstance(obs, Moments) or obs.mean.ndim != 1 or len(space.shape or ()) != 1:
        return statistics
    size = spaces.flatdim(space)
    extra = max(size - len(obs.mean), 0)
    mean = np.concatenate([obs.mean[:size], np.zeros(extra)])
    return replace(statistics, obs=Moments(mean, np.concatenate([obs.var[:size], np.ones(extra)]), obs.count))
