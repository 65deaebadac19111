"""What a run does with the statistics of its source's ``VecNormalize``."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.archives import ChosenStatistics, choose_statistics, read_archive, was_normalized
from daft_rl.archives.last_observations import read_last_observations
from daft_rl.correspondence import Matching
from daft_rl.errors import DaftWarning
from daft_rl.outputs import say
from daft_rl.policy.folding import fold_normalization
from daft_rl.rollout.input_scale import looks_normalized
from daft_rl.rollout.reward_scale import measure_reward_scale, scale_matters
from daft_rl.settings import AgentSettings

__all__ = [
    "SourceStatistics",
    "find_statistics",
    "settle_norm_reward",
    "tell_file",
    "treat_normalization",
    "warn_of_missing",
    "warn_of_normalized_inputs",
]


@dataclass(frozen=True)
class SourceStatistics:
    """The statistics that a source has, as ``results.json`` tells them."""

    file: str | None
    """Path of the file from the folder of the archive; ``None`` for an agent that was passed."""
    norm_reward: bool
    """Whether rewards are scaled while the agent learns."""


def find_statistics(
    given: AgentSettings, archive: Path, venv: VecEnv, matching: Matching | None = None
) -> ChosenStatistics | None:
    """The statistics that belong to an archive, if there are some.

    :param venv: gives the observations that they are for
    :param matching: of the source's entries and the target's, if some move
    """
    normalized = None
    if not given.trust:
        contents = read_archive(archive)
        normalized = was_normalized(contents.algorithm, contents.attributes)
    return choose_statistics(archive, given.vecnormalize, venv.observation_space, matching, normalized)


def tell_file(chosen: ChosenStatistics, archive: Path) -> str:
    """The path of the file from the archive's folder. It is printed unless it has one of SB3's own names there."""
    if not chosen.is_usual:
        say(f"{archive.name}: statistics of VecNormalize from {chosen.path}")
    return Path(os.path.relpath(chosen.path.absolute(), archive.absolute().parent)).as_posix()


def warn_of_missing(agent: BaseAlgorithm) -> None:
    """Warn if an agent that was passed learnt inside of a ``VecNormalize`` and has none now."""
    inside = isinstance(agent, OnPolicyAlgorithm) and getattr(agent, "_last_original_obs", None) is not None
    if inside and agent.get_vec_normalize_env() is None:
        message = (
            f"This {type(agent).__name__} learnt inside of a VecNormalize, and has none now: it sees other "
            "observations, or gets other rewards, than it learnt with. Load it with VecNormalize around its "
            "environment (VecNormalize.load), or pass the path of its archive."
        )
        warnings.warn(DaftWarning(message), stacklevel=4)


def warn_of_normalized_inputs(
    agent: Path | BaseAlgorithm, given: AgentSettings, model: BaseAlgorithm, visited: Any, num_envs: int
) -> None:
    """Warn if an off-policy agent without statistics learnt from normalized observations, where that is certain.

    :param agent: the source; archives of on-policy algorithms tell when they are loaded
    :param model: the agent that was made of it
    :param visited: observations of a visit, shape ``(steps * num_envs, size)``
    """
    without = given.vecnormalize == "auto" and model.get_vec_normalize_env() is None
    vectors = isinstance(visited, np.ndarray) and visited.ndim == 2
    if not (without and vectors and isinstance(model, OffPolicyAlgorithm)):
        return
    last = read_last_observations(agent)  # type: ignore[arg-type]
    steps = len(visited) // num_envs
    if last is None or steps * num_envs != len(visited):
        return
    if looks_normalized(last.seen, last.original, visited.reshape(steps, num_envs, -1).astype(np.float64)):
        message = (
            f"This {type(model).__name__} learnt inside of a VecNormalize, and its statistics were not found: what it "
            "observed last in training is not on the scale of this environment. Pass vecnormalize=PATH of the file, or "
            "'none' if the agent needs none."
        )
        warnings.warn(DaftWarning(message, arguments=("vecnormalize",)), stacklevel=4)


def settle_norm_reward(
    model: BaseAlgorithm,
    choice: Literal["auto"] | bool,
    open_env: Callable[[BaseAlgorithm], AbstractContextManager[VecEnv]],
    seed: int,
) -> None:
    """Decide whether the model's ``VecNormalize`` scales rewards.

    ``auto`` keeps what the file says, unless it says no and the critic agrees with scaled rewards only: then the file
    was saved for evaluation.

    :param open_env: opens a few environments for the model to play in, to compare the critic with returns
    :param seed: of the episodes that are played there
    """
    normalizer = model.get_vec_normalize_env()
    if normalizer is None:
        if choice is True:
            message = "norm_reward=True has no effect: the agent has no statistics of a VecNormalize."
            warnings.warn(DaftWarning(message, arguments=("norm_reward",)), stacklevel=4)
        return
    if choice != "auto":
        normalizer.norm_reward = choice
        return
    if normalizer.norm_reward or not scale_matters(normalizer):
        return
    with open_env(model) as venv:
        found = measure_reward_scale(model, venv, seed)
    if found is None or found.verdict == "plain":
        return
    std = math.sqrt(float(normalizer.ret_rms.var) + normalizer.epsilon)
    compared = (
        f"The statistics say norm_reward=False. The critic's values are about {found.values:.3g}, discounted returns "
        f"{found.plain:.3g}, and {found.scaled:.3g} if rewards are divided by their scale, {std:.3g}."
    )
    if found.verdict == "scaled":
        normalizer.norm_reward = True
        effect = "So the critic learnt scaled rewards, and they are scaled (norm_reward=False keeps them as they are)."
    elif found.values < found.plain / math.sqrt(std):
        effect = "The critic may have learnt scaled rewards. If learning fails, pass norm_reward=True."
    else:
        return
    warnings.warn(DaftWarning(f"{compared} {effect}", arguments=("norm_reward",)), stacklevel=4)


def treat_normalization(model: BaseAlgorithm, settings: AgentSettings) -> None:
    """Let statistics of a ``VecNormalize`` follow the target, or fold them; a source is loaded with frozen ones."""
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None and settings.normalize == "update":
        normalizer.training = True
    if normalizer is not None and settings.normalize == "fold":
        fold_normalization(model)
