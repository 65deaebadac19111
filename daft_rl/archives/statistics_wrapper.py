"""The statistics of an agent's ``VecNormalize``: which file holds them, and environments that are wrapped in them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from daft_rl.archives.carried import carry_statistics
from daft_rl.archives.statistics_files import find_vecnormalize, list_candidates
from daft_rl.archives.vecnormalize import RunningMoments, VecNormalizeStatistics, read_vecnormalize
from daft_rl.correspondence import Matching
from daft_rl.errors import AgentError, DaftWarning
from daft_rl.rollout.reward_scale import looks_scaled

FRAME_STACK = "stable_baselines3.common.vec_env:VecFrameStack"
TIME_FEATURE = "sb3_contrib.common.wrappers:TimeFeatureWrapper"
ON_POLICY = ("PPO", "A2C", "TRPO", "MaskablePPO", "RecurrentPPO")
MOST_NAMED = 4
OTHER_BODY = "For another body, say which entries correspond: correspondence=FILE, or correspondence='positions'."

__all__ = ["ChosenStatistics", "apply_vecnormalize", "choose_statistics", "warn_of_reward_scale", "was_normalized"]


@dataclass(frozen=True)
class ChosenStatistics:
    """The statistics of an agent."""

    path: Path
    content: VecNormalizeStatistics
    is_usual: bool
    """Whether the user named the file, or it has one of SB3's own names beside the archive."""


def was_normalized(algorithm: str | None, attributes: Mapping[str, Any]) -> bool | None:
    """Whether an agent learnt inside of a ``VecNormalize``, as its archive tells; ``None`` if it does not tell.

    SB3's on-policy algorithms keep the first observations of their training as they were before a ``VecNormalize``, if
    there is one. Those of off-policy algorithms are there in any case.

    :param algorithm: name of SB3's class
    :param attributes: the JSON of the archive
    """
    if algorithm not in ON_POLICY or "_last_original_obs" not in attributes or not attributes.get("num_timesteps"):
        return None
    return attributes["_last_original_obs"] is not None


def choose_statistics(
    archive: Path, choice: str, space: spaces.Space[Any] | None, matching: Matching | None, normalized: bool | None
) -> ChosenStatistics | None:
    """Find the statistics of an agent, and warn if there should be some, or may be some.

    :param archive: of the agent
    :param choice: see :func:`~daft_rl.archives.statistics_files.find_vecnormalize`
    :param space: of the environment's observations, if there is one
    :param matching: of the entries of the statistics and of the environment; ``None`` if they are the same
    :param normalized: see :func:`was_normalized`
    :return: ``None`` if there are none, or none is certain
    :raises AgentError: the file is missing or damaged
    """
    if choice != "auto":
        path = find_vecnormalize(archive, choice)
        return None if path is None else ChosenStatistics(path, _read(path, space, matching), True)
    doubtful: dict[str, str] = {}
    for candidate in list_candidates(archive):
        if not candidate.is_usual and normalized is False:
            continue
        if not (candidate.is_certain or normalized or candidate.path.parent == archive.parent):
            continue  # in another folder anybody's files lie
        try:
            content = _read(candidate.path, space, matching)
        except AgentError:
            if candidate.is_usual:
                raise
            doubtful[str(candidate.path)] = "cannot be read"
            continue
        fits = candidate.is_usual or space is None or unfit(content, space) is None
        if candidate.is_certain and fits:
            return ChosenStatistics(candidate.path, content, candidate.is_usual)
        doubtful[str(candidate.path)] = "may be another agent's" if fits else "has other shapes"
    _warn_missing(archive, doubtful, normalized)
    return None


def _read(path: Path, space: spaces.Space[Any] | None, matching: Matching | None) -> VecNormalizeStatistics:
    content = read_vecnormalize(path)
    return content if matching is None or space is None else carry_statistics(content, matching, space)


def _warn_missing(archive: Path, doubtful: Mapping[str, str], normalized: bool | None) -> None:
    if not doubtful and not normalized:
        return
    learnt = f"{archive} learnt inside of a VecNormalize, whose statistics were not found." if normalized else ""
    listed = "; ".join(f"{path} ({reason})" for path, reason in list(doubtful.items())[:MOST_NAMED])
    told = f"{archive} was loaded without statistics of a VecNormalize, though there is {listed}." if listed else ""
    effect = "Without its statistics an agent sees other observations, or gets other rewards, than it learnt with."
    message = f"{learnt} {told} {effect} Pass vecnormalize=PATH of the file, or 'none' if the agent needs none."
    warnings.warn(DaftWarning(message.strip(), arguments=("vecnormalize",)), stacklevel=5)


def _shape_of(space: spaces.Space[Any]) -> Any:
    return {key: part.shape for key, part in space.spaces.items()} if isinstance(space, spaces.Dict) else space.shape


def unfit(statistics: VecNormalizeStatistics, space: spaces.Space[Any]) -> str | None:
    """Why statistics are of other observations than ``space``, and what may help; ``None`` if they fit."""
    obs, got = statistics.obs, _shape_of(space)
    if obs is None:
        return None
    shapes = {key: part.mean.shape for key, part in obs.items()} if isinstance(obs, dict) else obs.mean.shape
    both = isinstance(shapes, dict) and isinstance(got, dict)
    if shapes == ({key: got.get(key) for key in shapes} if both else got):
        return None
    told = f"The VecNormalize statistics are for observations of shape {shapes}, the environment gives {got}."
    return f"{told} {_advice(shapes, got)}"


def _advice(shapes: Any, got: Any) -> str:
    """What makes observations of shape ``got`` fit statistics of ``shapes``."""
    if isinstance(shapes, dict) or isinstance(got, dict) or len(shapes) != 1 or len(got) != 1:
        return "Wrap the environment so that its observations are those that the agent learnt with (wrappers=...)."
    [size], [now] = shapes, got
    if now > size and now % size == 0:
        return (
            f"If {now // size} observations are stacked, stack them outside of the statistics, as in training: "
            f"vec_wrappers=['VecNormalize', {{'path': '{FRAME_STACK}', 'kwargs': {{'n_stack': {now // size}}}}}]. "
            + OTHER_BODY
        )
    if now == size - 1:
        return (
            "If one entry tells the time, as in the agents of rl-zoo, wrap the environment: "
            f"wrappers=['{TIME_FEATURE}']. " + OTHER_BODY
        )
    if size > now and size % now == 0:
        return (
            f"If the agent saw {size // now} observations stacked: vec_wrappers=[{{'path': '{FRAME_STACK}', 'kwargs': "
            f"{{'n_stack': {size // now}}}}}]. " + OTHER_BODY
        )
    return OTHER_BODY


def _running(moments: RunningMoments) -> RunningMeanStd:
    running = RunningMeanStd(shape=moments.mean.shape)
    running.mean, running.var, running.count = moments.mean.copy(), moments.var.copy(), moments.count
    return running


def apply_vecnormalize(venv: VecEnv, statistics: VecNormalizeStatistics) -> VecNormalize:
    """Wrap environments in a ``VecNormalize`` with these statistics, frozen (``training=False``).

    Rewards are normalized too if the file says so (``norm_reward``); their scale is frozen as well.

    :param venv: environments whose observations are not normalized yet
    :param statistics: what :func:`read_vecnormalize` returned
    :raises AgentError: the observations have other shapes than the statistics
    """
    obs, problem = statistics.obs, unfit(statistics, venv.observation_space)
    if problem is not None:
        raise AgentError(problem, arguments=("correspondence", "wrappers", "vec_wrappers"))
    wrapped = VecNormalize(
        venv,
        training=False,
        norm_obs=statistics.norm_obs,
        norm_reward=statistics.norm_reward,
        clip_obs=statistics.clip_obs,
        clip_reward=statistics.clip_reward,
        gamma=statistics.gamma,
        epsilon=statistics.epsilon,
        norm_obs_keys=list(obs) if isinstance(obs, dict) else None,
    )
    if obs is not None:
        running = {key: _running(part) for key, part in obs.items()} if isinstance(obs, dict) else _running(obs)
        wrapped.obs_rms = running  # type: ignore[assignment]
    wrapped.ret_rms = _running(statistics.ret)
    wrapped.old_obs = statistics.last_obs if statistics.last_obs is not None else np.array([])
    return wrapped


def warn_of_reward_scale(model: BaseAlgorithm, venv: VecEnv | None) -> None:
    """Warn if rewards are not scaled, and the critic's values at the last states of training look as if they were."""
    normalizer = None if venv is None else unwrap_vec_normalize(venv)
    if normalizer is None or normalizer.norm_reward or not isinstance(normalizer.old_obs, np.ndarray):
        return
    if normalizer.old_obs.ndim == 2 and len(normalizer.old_obs) and looks_scaled(model, normalizer, normalizer.old_obs):
        std = float(np.sqrt(normalizer.ret_rms.var + normalizer.epsilon))
        message = (
            "The statistics say norm_reward=False, but the critic's values are too small for rewards that are not "
            f"scaled: they look as if rewards had been divided by {std:.3g}, the standard deviation of returns in the "
            "file, which was saved for evaluation then. To learn on, pass norm_reward=True."
        )
        warnings.warn(DaftWarning(message, arguments=("norm_reward",)), stacklevel=4)
