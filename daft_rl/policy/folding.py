"""Write the statistics of ``VecNormalize`` into the layers that read observations: no wrapper is needed then."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from daft_rl.batchnorm import BatchNormLayer, batchnorm_layers, evaluation_mode
from daft_rl.errors import AgentError, DaftWarning
from daft_rl.policy.networks import Networks

__all__ = ["fold_normalization"]


REMEDY = "Keep the VecNormalize wrapper."


def _refuse(reason: str) -> AgentError:
    return AgentError(f"Normalization cannot be folded into the policy: {reason} {REMEDY}", arguments=("normalize",))


@torch.no_grad()
def fold_normalization(model: BaseAlgorithm) -> list[str]:
    """Make the policy take raw observations, in place: it computes what it did for normalized ones.

    The statistics go into the first linear layers, or into the BatchNorm layer on the observation, of every network
    and its target. Clipping is lost: an entry further than ``clip_obs`` standard deviations away now counts in full.
    If the wrapper scales rewards, it stays for that; a wrapper with nothing left to do is removed.

    :param model: an agent in an environment with a ``VecNormalize``. Without one, nothing happens
    :return: names of the layers that were changed
    :raises AgentError: observations are no vectors, something other than such layers reads them, or other wrappers are
        outside of the ``VecNormalize``
    """
    normalizer = model.get_vec_normalize_env()
    if normalizer is None or not normalizer.norm_obs:
        return []
    if model.get_env() is not normalizer:
        raise _refuse("other wrappers are outside of VecNormalize, between it and the policy.")
    statistics: Any = normalizer.obs_rms
    if isinstance(statistics, dict) or len(normalizer.observation_space.shape or ()) != 1:
        raise _refuse(f"observations should be vectors, got {normalizer.observation_space}.")
    mean = torch.as_tensor(statistics.mean, device=model.device)
    std = torch.as_tensor(np.sqrt(statistics.var + normalizer.epsilon), device=model.device)
    first = _fold(Networks(model.policy), mean, std)
    warnings.warn(
        DaftWarning(
            f"Observations are no longer clipped at {normalizer.clip_obs:g} standard deviations, because normalization "
            "was folded into the policy.",
            arguments=("normalize",),
        ),
        stacklevel=2,
    )
    normalizer.norm_obs = False
    if not normalizer.norm_reward:
        assert model.env is not None
        model.env = normalizer.venv
        model._vec_normalize_env = None
        model._last_original_obs = None  # an archive with these says that the agent needs statistics
    return first


def _fold(networks: Networks, mean: Tensor, std: Tensor) -> list[str]:
    """Change the first layers, and check on random observations that the policy computes what it did."""
    policy: Any = networks.policy
    layers, first = batchnorm_layers(policy), list(networks.first_layers(len(mean)))
    if not first:
        raise _refuse("no linear or BatchNorm layer reads the observation first.")
    normalized = torch.randn(64, len(mean), generator=torch.Generator().manual_seed(0)).to(policy.device)
    before, backup = _linear_outputs(networks, normalized), copy.deepcopy(policy.state_dict())
    for name in first:
        if name in layers:
            _fold_into_batchnorm(layers[name], mean, std)
        else:
            _fold_into_linear(name, policy.get_submodule(name), mean, std)
    after = _linear_outputs(networks, (normalized.double() * std + mean).to(normalized.dtype))
    if not all(torch.allclose(after[name], output, rtol=1e-2, atol=1e-2) for name, output in before.items()):
        policy.load_state_dict(backup)
        raise _refuse(f"more of the policy reads the observation than its first layers, {', '.join(first)}.")
    return first


def _linear_outputs(networks: Networks, observations: Tensor) -> dict[str, Tensor]:
    """Outputs of every linear layer of the online networks, by name."""
    found: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
        for name, module in networks.policy.named_modules()
        if isinstance(module, nn.Linear) and not networks.is_target(name)
    ]
    try:
        with evaluation_mode(networks.policy):
            networks.forward(observations)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _fold_into_linear(name: str, layer: nn.Linear, mean: Tensor, std: Tensor) -> None:
    if layer.bias is None:
        raise _refuse(f"layer '{name}' has no bias that could absorb the mean.")
    columns = layer.weight[:, : len(mean)].double() / std
    layer.bias.copy_(layer.bias.double() - columns @ mean)
    layer.weight[:, : len(mean)] = columns.to(layer.weight.dtype)


def _fold_into_batchnorm(layer: BatchNormLayer, mean: Tensor, std: Tensor) -> None:
    """Make the statistics those of raw observations; the scale compensates for ``eps``."""
    own = slice(len(mean))  # the input of a critic's layer may continue with the action
    old = layer.var[own].double()
    var = (old * std.square()).to(layer.var.dtype)
    if layer.weight is not None:
        scale = ((var.double() + layer.eps) / (old + layer.eps)).sqrt() / std
        layer.weight[own] *= scale.to(layer.weight.dtype)
    layer.mean[own] = (mean + std * layer.mean[own].double()).to(layer.mean.dtype)
    layer.var[own] = var
