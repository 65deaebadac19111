"""SB3's policies with BatchNorm before every hidden activation.

:func:`daft_rl.insert_batchnorm` turns a policy without BatchNorm into one of these. For the policies of each algorithm
in the table this module has a class by name, such as ``BatchNormSACMlpPolicy``. Archives refer to that name, so plain
SB3 opens them where daft_rl is installed: ``SAC.load("final.zip")``.
"""

from __future__ import annotations

import copy
import copyreg
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from stable_baselines3.common.distributions import Distribution as ActionDistribution
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn

from daft_rl.agents.algorithms import ALGORITHMS

__all__ = ["HAS_BATCHNORM", "BatchNormPolicy", "add_batchnorm", "with_batchnorm"]

HAS_BATCHNORM = "has_inserted_batchnorm"
"""Attribute of the classes that :func:`with_batchnorm` makes. SB3 writes it into archives as plain text, and nothing
else there tells that BatchNorm was inserted into a policy of the user's."""

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
"""TD3 and gSDE call a network so whose last activation is its output, not a hidden one."""


def _identity_layer(cls: type[nn.Module], channels: int) -> nn.Module:
    layer: Any = cls(channels)
    nn.init.constant_(layer.weight, (1 + layer.eps) ** 0.5)
    return layer


def _add_on_input(extractor: FlattenExtractor) -> None:
    normalized: Any = nn.Sequential(extractor.flatten, _identity_layer(nn.BatchNorm1d, extractor.features_dim))
    extractor.flatten = normalized.train(extractor.training)  # target networks are never in training mode


def _add_in_sequence(network: nn.Sequential, ends_in_activation: bool) -> int:
    weighted = [i for i, layer in enumerate(network) if type(layer) in _WEIGHTED]
    if ends_in_activation:
        weighted = weighted[:-1]
    added = 0
    for i in reversed(weighted):
        layer: Any = network[i]
        if i + 1 < len(network) and isinstance(network[i + 1], ACTIVATIONS):
            channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
            normalization = _identity_layer(_WEIGHTED[type(layer)], channels).to(layer.weight)
            normalization.train(network.training)
            network.insert(i + 1, normalization)
            added += 1
    return added


def add_batchnorm(module: nn.Module, on_input: bool = False) -> int:
    """Put BatchNorm between each weighted layer of a ``Sequential`` and the hidden activation after it, in place.

    In evaluation mode each new layer is the identity. Where there is BatchNorm already, none is added.

    :param module: a network, or a whole policy
    :param on_input: also normalize observation vectors, behind SB3's ``FlattenExtractor``
    :return: how many layers were added
    """
    added = 0
    for name, network in list(module.named_modules()):
        if isinstance(network, FlattenExtractor) and on_input and not isinstance(network.flatten, nn.Sequential):
            _add_on_input(network)
            added += 1
        if isinstance(network, nn.Sequential):
            added += _add_in_sequence(network, ends_in_activation=name.rpartition(".")[2] == OUTPUT)
    return added


def _graph_tensors(value: Any) -> Iterator[Tensor]:
    """Tensors with a history of gradients that an action distribution keeps from its last use."""
    if isinstance(value, Tensor):
        yield from () if value.is_leaf else (value,)
    elif isinstance(value, list):
        for item in value:
            yield from _graph_tensors(item)
    elif isinstance(value, ActionDistribution | torch.distributions.Distribution):
        yield from _graph_tensors(list(vars(value).values()))


class BatchNormPolicy:
    """Mixed into a policy of SB3: its networks get BatchNorm when they are built.

    :param batchnorm_on_input: see ``on_input`` of :func:`add_batchnorm`
    """

    def __init__(self, *args: Any, batchnorm_on_input: bool = False, **kwargs: Any) -> None:
        self.batchnorm_on_input = batchnorm_on_input
        super().__init__(*args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()  # type: ignore[misc]
        return parameters | {"batchnorm_on_input": self.batchnorm_on_input}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """PyTorch does not copy tensors that have a history of gradients; the copy gets them without."""
        distributions = [getattr(module, "action_dist", None) for module in self.modules()]  # type: ignore[attr-defined]
        memo |= {id(tensor): tensor.detach().clone() for tensor in _graph_tensors(distributions)}
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the class without BatchNorm: what :func:`with_batchnorm` makes of a user's policy has no name."""
        cls: Any = type(self)
        base = without_batchnorm(cls)
        if with_batchnorm(base) is not cls:  # a subclass of the user's
            return copyreg.__newobj__, (cls,), self.__dict__  # type: ignore[attr-defined]
        return _new_instance, (base,), self.__dict__

    def _with_batchnorm(self, network: Any) -> Any:
        add_batchnorm(network, self.batchnorm_on_input)
        return network

    def make_features_extractor(self) -> Any:
        return self._with_batchnorm(super().make_features_extractor())  # type: ignore[misc]

    def make_actor(self, *args: Any, **kwargs: Any) -> Any:
        return self._with_batchnorm(super().make_actor(*args, **kwargs))  # type: ignore[misc]

    def make_critic(self, *args: Any, **kwargs: Any) -> Any:
        return self._with_batchnorm(super().make_critic(*args, **kwargs))  # type: ignore[misc]

    def make_q_net(self) -> Any:
        return self._with_batchnorm(super().make_q_net())  # type: ignore[misc]

    def make_quantile_net(self) -> Any:
        return self._with_batchnorm(super().make_quantile_net())  # type: ignore[misc]

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()  # type: ignore[misc]
        self._with_batchnorm(self.mlp_extractor)  # type: ignore[attr-defined]


@cache
def with_batchnorm(policy: type[BasePolicy]) -> type[BasePolicy]:
    """The class of such policies with BatchNorm before every hidden activation.

    :param policy: a class of SB3, or a subclass of one. A class that has BatchNorm in this way stays itself
    """
    if issubclass(policy, BatchNormPolicy):
        return policy
    published = next((name for name, cls in _published().items() if cls is policy), None)
    name, module = (published, __name__) if published else (f"BatchNorm{policy.__name__}", policy.__module__)
    attributes = {"__doc__": policy.__doc__, "__module__": module, HAS_BATCHNORM: True}
    return type(name, (BatchNormPolicy, policy), attributes)


def without_batchnorm(policy: type[BasePolicy]) -> type[BasePolicy]:
    """The class that :func:`with_batchnorm` made this one of."""
    bases = policy.__mro__
    return bases[bases.index(BatchNormPolicy) + 1]


def _new_instance(policy: type[BasePolicy]) -> BasePolicy:
    cls = with_batchnorm(policy)
    return cls.__new__(cls)


def _published() -> dict[str, type[BasePolicy]]:
    """Name in this module -> policy without BatchNorm. Algorithms with the same policies share the first one's
    name: A2C and TRPO have PPO's policies, DDPG has TD3's."""
    names: dict[type[BasePolicy], str] = {}
    for algorithm in ALGORITHMS.values():
        for alias, policy in algorithm.cls.policy_aliases.items():
            if issubclass(policy, algorithm.layout.policy):
                names.setdefault(policy, f"BatchNorm{algorithm.name}{alias}")
    return {name: policy for policy, name in names.items()}


def __getattr__(name: str) -> Any:
    """The classes that archives refer to by name, also those of algorithms that are registered later."""
    policy = _published().get(name)
    if policy is None:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return with_batchnorm(policy)
