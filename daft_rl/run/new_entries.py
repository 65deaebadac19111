"""What an agent knows of the entries of another body, and the measurement of those that are new to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from daft_rl.batchnorm import Moments, batchnorm_layers
from daft_rl.correspondence import Correspondence
from daft_rl.policy.carrying import new_channels
from daft_rl.policy.networks import Networks
from daft_rl.policy.tracing import Tracer
from daft_rl.rollout.evaluation import visit

__all__ = ["known_means", "measure_new_entries"]

STEPS = 2048
"""States of the target in which entries are measured that the source does not know."""
LEAST_VARIANCE = 1e-8
"""An entry that varies less is a constant, and keeps the variance 1."""


@torch.no_grad()
def measure_new_entries(model: BaseAlgorithm, correspondence: Correspondence, venv: VecEnv, seed: int) -> None:
    """Give the entries that are new the statistics that they have in the target, in ``VecNormalize`` and in BatchNorm.

    Their weights are 0, so that nothing changes in what the policy computes. Random numbers start afresh afterwards.

    :param model: an agent that was carried to the target
    :param venv: of the target, with raw observations
    :param seed: of the episodes that are visited
    """
    observations, actions = visit(model, venv, STEPS, seed)
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None and normalizer.norm_obs:
        _measure_normalized(normalizer, observations, correspondence.observation.new)
    networks = Networks(model.policy)
    channels = new_channels(model.policy, correspondence)
    if channels:
        _measure_channels(networks, channels, networks.measure(networks.batches(observations, actions)))
    model.set_random_seed(seed)


def _measure_normalized(normalizer: VecNormalize, observations: Any, new: Sequence[int]) -> None:
    """Give new entries their mean and variance, and normalize what was seen of them, in place.

    :param observations: where the statistics of new entries are 0 and 1; entries beyond clip_obs count as clip_obs
    """
    dictionary, known = isinstance(observations, dict), normalizer.obs_rms
    statistics: Mapping[str, Any] = known if isinstance(known, dict) else {"": known}
    place = 0
    for key, seen in (observations if dictionary else {"": observations}).items():
        size = seen.shape[1] if seen.ndim == 2 else 1
        own = [entry - place for entry in new if place <= entry < place + size]
        place += size
        if not own or key not in statistics:
            continue
        means, variances = seen[:, own].mean(axis=0, dtype=np.float64), seen[:, own].var(axis=0, dtype=np.float64)
        variances[variances < LEAST_VARIANCE] = 1.0
        statistics[key].mean[own], statistics[key].var[own] = means, variances
        seen[:, own] = (seen[:, own] - means) / np.sqrt(variances + normalizer.epsilon)


def _measure_channels(networks: Networks, channels: Mapping[str, torch.Tensor], measured: Mapping[str, Any]) -> None:
    layers, mixed = batchnorm_layers(networks.policy), {}
    for name, mask in channels.items():
        layer, statistics = layers[name], measured[name]
        own = mask.to(layer.mean.device)
        varying = own & (statistics.var > LEAST_VARIANCE)
        mixed[name] = Moments(
            torch.where(own, statistics.mean, layer.mean.double()),
            torch.where(varying, statistics.var, layer.var.double()),
        )
    networks.apply(mixed, preserve_function=False)


def known_means(model: BaseAlgorithm, correspondence: Correspondence) -> list[float]:
    """What an agent knows of the mean of each entry of the target; 0 where it knows nothing."""
    normalizer, size = model.get_vec_normalize_env(), len(correspondence.observation.target)
    if normalizer is not None and normalizer.norm_obs:
        known: Any = normalizer.obs_rms
        if not isinstance(known, dict):
            return known.mean.tolist()  # type: ignore[no-any-return]
        parts = normalizer.observation_space.spaces  # type: ignore[attr-defined]
        return [
            float(mean)
            for key, part in parts.items()
            for mean in (known[key].mean if key in known else np.zeros(spaces.flatdim(part)))
        ]
    if not correspondence.observation.new:
        return [0.0] * size
    return Tracer(model.policy, observation=True, action=False).means().tolist()  # type: ignore[no-any-return]
