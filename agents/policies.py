"""SB3's policies with BatchNorm before every hidden activation.

They are what :func:`daft_rl.insert_batchnorm` makes of a policy that has none. Being classes of a module, they let
plain SB3 open the archives: ``SAC.load("final.zip")``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

__all__ = ["BatchNormPolicy", "add_batchnorm", "with_batchnorm"]

_WEIGHTED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: nn.BatchNorm1d,
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}
ACTIVATIONS: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.Tanh, nn.ELU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Mish, nn.SELU, nn.CELU, nn.ReLU6),
    *(nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Identity),
)
OUTPUT = "mu"
"""TD3's and gSDE's name of a network that ends in an activation which is not a hidden one."""


def _identity(kind: type[nn.Module], channels: int) -> nn.Module:
    layer: Any = kind(channels)
    nn.init.constant_(layer.weight, (1 + layer.eps) ** 0.5)
    return layer


def add_batchnorm(module: nn.Module, on_input: bool = False) -> int:
    """Put BatchNorm between each weighted layer of a ``Sequential`` and the hidden activation after it, in place.

    In evaluation mode each new layer is the identity. Where there is one already, none is added.

    :param module: a network, or a whole policy
    :param on_input: also on observation vectors, behind SB3's ``FlattenExtractor``
    :return: how many layers were added
    """
    added = 0
    for name, network in list(module.named_modules()):
        if isinstance(network, FlattenExtractor) and on_input and not isinstance(network.flatten, nn.Sequential):
            normalized: Any = nn.Sequential(network.flatten, _identity(nn.BatchNorm1d, network.features_dim))
            network.flatten = normalized.train(network.training)  # target networks are never in training mode
            added += 1
        if not isinstance(network, nn.Sequential):
            continue
        weighted = [i for i, layer in enumerate(network) if type(layer) in _WEIGHTED]
        if name.rpartition(".")[2] == OUTPUT:
            weighted = weighted[:-1]
        for i in reversed(weighted):
            layer: Any = network[i]
            if i + 1 < len(network) and isinstance(network[i + 1], ACTIVATIONS):
                channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
                normalization = _identity(_WEIGHTED[type(layer)], channels).to(layer.weight)
                normalization.train(network.training)
                network.insert(i + 1, normalization)
                added += 1
    return added


class BatchNormPolicy:
    """Mixed into a policy of SB3: its networks get BatchNorm as they are built.

    :param batchnorm_on_input: see ``on_input`` of :func:`add_batchnorm`
    """

    def __init__(self, *args: Any, batchnorm_on_input: bool = False, **kwargs: Any) -> None:
        self.batchnorm_on_input = batchnorm_on_input
        super().__init__(*args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()  # type: ignore[misc]
        return parameters | {"batchnorm_on_input": self.batchnorm_on_input}

    def _with(self, network: Any) -> Any:
        add_batchnorm(network, self.batchnorm_on_input)
        return network

    def make_features_extractor(self) -> Any:
        return self._with(super().make_features_extractor())  # type: ignore[misc]

    def make_actor(self, *args: Any, **kwargs: Any) -> Any:
        return self._with(super().make_actor(*args, **kwargs))  # type: ignore[misc]

    def make_critic(self, *args: Any, **kwargs: Any) -> Any:
        return self._with(super().make_critic(*args, **kwargs))  # type: ignore[misc]

    def make_q_net(self) -> Any:
        return self._with(super().make_q_net())  # type: ignore[misc]

    def make_quantile_net(self) -> Any:
        return self._with(super().make_quantile_net())  # type: ignore[misc]

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()  # type: ignore[misc]
        self._with(self.mlp_extractor)  # type: ignore[attr-defined]


@cache
def with_batchnorm(policy: type[BasePolicy]) -> type[BasePolicy]:
    """The class of such policies with BatchNorm before every hidden activation.

    :param policy: SB3's class, or a subclass of one; one that has it already stays itself
    """
    if issubclass(policy, BatchNormPolicy):
        return policy
    return type(f"BatchNorm{policy.__name__}", (BatchNormPolicy, policy), {"__doc__": policy.__doc__})


def _publish(algorithm: type[BaseAlgorithm]) -> None:
    """Give the classes of one algorithm names in this module, by which archives refer to them."""
    for alias, policy in algorithm.policy_aliases.items():
        cls, name = with_batchnorm(policy), f"BatchNorm{algorithm.__name__}{alias}"
        cls.__name__ = cls.__qualname__ = name
        cls.__module__ = __name__
        globals()[name] = cls


for _algorithm in (PPO, SAC, TD3, TQC, CrossQ, DQN, QRDQN):  # A2C and TRPO have PPO's policies, DDPG has TD3's
    _publish(_algorithm)
