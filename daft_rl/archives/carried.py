"""The statistics of a ``VecNormalize`` and the noise of actions, carried to another body."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise

from daft_rl.archives.vecnormalize import RunningMoments, VecNormalizeStatistics
from daft_rl.correspondence import Matching, shorten
from daft_rl.errors import AgentError

__all__ = ["carry_noise", "carry_statistics"]


def carry_noise(noise: ActionNoise, matching: Matching) -> ActionNoise:
    """Noise for the actions of another body. A new motor gets as much as the others do on average.

    :param noise: of SB3, for the source's actions
    :param matching: of the actions
    """
    carried: Any = copy.deepcopy(noise)
    known = [origin for origin in matching.origin if origin is not None] or list(range(len(matching.source)))
    for name in ("_mu", "_sigma"):
        values = np.asarray(getattr(carried, name, 0.0))
        if values.shape == (len(matching.source),):
            new = values[known].mean() if name == "_sigma" else 0.0
            moved = [new if origin is None else values[origin] for origin in matching.origin]
            setattr(carried, name, np.array(moved, float))
    carried.reset()
    return carried  # type: ignore[no-any-return]


def carry_statistics(
    statistics: VecNormalizeStatistics, matching: Matching, space: spaces.Space[Any]
) -> VecNormalizeStatistics:
    """Statistics for the entries of another observation. New entries get mean 0 and variance 1.

    :param matching: of the observations
    :param space: of the target's observations
    :raises AgentError: the statistics are for other observations than the source's
    """
    if isinstance(statistics.obs, dict) and isinstance(space, spaces.Dict):
        carried: Any = {
            key: _carry(moments, *_of_key(matching, key))
            for key, moments in statistics.obs.items()
            if key in space.spaces
        }
    elif isinstance(statistics.obs, RunningMoments):
        carried = _carry(statistics.obs, matching.source, matching.origin)
    else:
        carried = statistics.obs
    return replace(statistics, obs=carried, last_obs=None)


def _of_key(matching: Matching, key: str) -> tuple[list[str], list[int | None]]:
    """Names of the entries under one key in the source, and the origins of those in the target."""
    source = [name for name in matching.source if name.startswith(f"{key}.")]
    if not source:
        raise AgentError(
            f"There are VecNormalize statistics of the key '{key}', and none of the source's names begins with "
            f"'{key}.': {shorten(matching.source)}. Name the entries of a Dict by key and name, '{key}.NAME'.",
            arguments=("correspondence",),
        )
    origins: list[int | None] = []
    for name, origin in zip(matching.target, matching.origin, strict=True):
        if name.startswith(f"{key}."):
            known = None if origin is None else matching.source[origin]
            if known is not None and known not in source:
                raise AgentError(
                    f"'{name}' corresponds to '{known}' of another key, and VecNormalize treats keys differently.",
                    arguments=("correspondence",),
                )
            origins.append(None if known is None else source.index(known))
    return source, origins


def _carry(moments: RunningMoments, source: Sequence[str], origins: Sequence[int | None]) -> RunningMoments:
    if moments.mean.shape != (len(source),):
        raise AgentError(
            f"The VecNormalize statistics are for observations of shape {moments.mean.shape}, and the source of the "
            f"correspondence has {len(source)} entries.",
            arguments=("correspondence",),
        )
    mean = np.array([0.0 if origin is None else moments.mean[origin] for origin in origins])
    var = np.array([1.0 if origin is None else moments.var[origin] for origin in origins])
    return RunningMoments(mean, var, moments.count)
