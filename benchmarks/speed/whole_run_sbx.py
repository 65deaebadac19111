"""PPO of sbx that starts as the same function as an agent of SB3, for ``whole_run.py``."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import nn

if TYPE_CHECKING:
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecEnv

__all__ = ["affine_layers", "convert_agent"]

KEPT = ("n_epochs", "gamma", "gae_lambda", "clip_range", "ent_coef", "vf_coef", "max_grad_norm")
"""Settings of the source that sbx is given."""


def affine_layers(modules: Iterable[nn.Module], inputs: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Kernels ``(inputs, outputs)`` and biases of a network of ReLUs.

    What stands between two ReLUs is one affine map, BatchNorm with its running statistics included.

    :param inputs: length of an input
    """
    blocks = [nn.Sequential()]
    for module in modules:
        if isinstance(module, nn.ReLU):
            blocks.append(nn.Sequential())
        else:
            blocks[-1].append(deepcopy(module))
    layers = []
    for block in blocks:
        block.double().eval()
        with torch.no_grad():
            bias = block(torch.zeros(1, inputs, dtype=torch.float64))
            kernel = block(torch.eye(inputs, dtype=torch.float64)) - bias
        layers.append((kernel.float().numpy(), bias[0].float().numpy()))
        inputs = kernel.shape[1]
    return layers


def as_parameters(layers: list[tuple[NDArray[Any], NDArray[Any]]]) -> dict[str, Any]:
    """Layers by the names that sbx's networks give them."""
    return {f"Dense_{i}": {"kernel": kernel, "bias": bias} for i, (kernel, bias) in enumerate(layers)}


def convert_agent(source: PPO, venv: VecEnv, seed: int, settings: dict[str, Any]) -> Any:
    """PPO of sbx, with the widths of layers, the function and the settings of ``source``.

    :param source: actor and critic are ReLU networks in features extractors of their own
    :param settings: what differs from the source's settings
    """
    import jax
    import sbx

    policy: Any = source.policy
    networks = {
        "actor_state": [*policy.pi_features_extractor.net, policy.action_net],
        "vf_state": [*policy.vf_features_extractor.net, policy.value_net],
    }
    inputs = source.observation_space.shape[0]  # type: ignore[index]
    layers = {name: affine_layers(modules, inputs) for name, modules in networks.items()}
    widths = [len(bias) for _, bias in layers["actor_state"][:-1]]
    kept = {name: getattr(source, name) for name in KEPT}
    architecture = {"net_arch": widths, "activation_fn": jax.nn.relu}
    model = sbx.PPO("MlpPolicy", venv, policy_kwargs=architecture, seed=seed, **kept | settings)
    for name, found in layers.items():
        parameters = as_parameters(found)
        if name == "actor_state":
            parameters["log_std"] = policy.log_std.detach().numpy()
        state = getattr(model.policy, name)
        setattr(model.policy, name, state.replace(params={"params": parameters}))
    return model
