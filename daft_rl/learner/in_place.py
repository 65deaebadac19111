"""ReLUs that write over their input, while a policy learns: memory that is in the cache is used again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from sb3_contrib.common.torch_layers import BatchRenorm1d
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from daft_rl.agents.renorm import FusedBatchRenorm1d

__all__ = ["relus_in_place"]

BEFORE = (nn.Linear, nn.BatchNorm1d, BatchRenorm1d, FusedBatchRenorm1d)
"""Layers whose gradient does not need their output."""
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


@contextmanager
def relus_in_place(module: nn.Module) -> Iterator[None]:
    """Inside, ReLUs of each plain ``Sequential`` write over the output of the layer before them. No bit changes.

    Where somebody has hooks on one of the two, or calls a layer by itself, its output stays as it is.

    :param module: a policy
    """
    changed = [network for network in _networks(module) if _run_in_place(network)]
    try:
        yield
    finally:
        for network in changed:
            network.__dict__.pop("forward", None)


def _networks(module: nn.Module) -> Iterator[nn.Module]:
    """Each plain ``Sequential``. A network that two modules hold comes twice."""
    for child in module._modules.values():
        if child is not None:
            if type(child) is nn.Sequential:
                yield child
            yield from _networks(child)


def _run_in_place(network: nn.Module) -> bool:
    """Put another ``forward`` on a network, if one of its ReLUs can work in place."""
    if "forward" in network.__dict__ or _has_any_global_hook():
        return False
    pairs = enumerate(pairwise(network._modules.values()), start=1)
    places = frozenset(index for index, (before, layer) in pairs if _suits(before, layer))
    if places:
        network.__dict__["forward"] = _InPlace(network, places)
    return bool(places)


class _InPlace:
    """The ``forward`` of a network. Unlike a function, it is copied with the network.

    :param network: a ``Sequential``
    :param places: where its ReLUs are
    """

    def __init__(self, network: nn.Module, places: frozenset[int]) -> None:
        self.network, self.places = network, places

    def __call__(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.network._modules.values()):
            x = torch.relu_(x) if index in self.places else layer(x)  # type: ignore[misc]
        return x


def _suits(before: Any, layer: Any) -> bool:
    """Whether a layer can write over what the layer before it gives."""
    return type(layer) is nn.ReLU and type(before) in BEFORE and not (_is_watched(layer) or _is_watched(before))


def _is_watched(layer: nn.Module) -> bool:
    """Whether somebody looks at what goes in or comes out, or has put another ``forward`` on the object."""
    own: dict[str, Any] = layer.__dict__
    return "forward" in own or any(own[name] for name in HOOKS)
