"""The layers of a network as one autograd function, whose matrix products another library can compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.module import _has_any_global_hook

from daft_rl.learner.stages import Stage, plan_stages

__all__ = ["fuse_chains", "separate_chains"]


HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class RunChain(torch.autograd.Function):
    """A network's output, with the gradients of its input and parameters."""

    @staticmethod
    def forward(ctx: Any, stages: tuple[Stage, ...], x: Tensor, *parameters: Tensor) -> Tensor:
        tensors: list[Tensor | None] = []
        ctx.lengths = []
        for stage in stages:
            x, saved = stage.forward(x)
            tensors += saved
            ctx.lengths.append(len(saved))
        ctx.save_for_backward(*tensors)
        ctx.stages = stages
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        gradient: Tensor | None = gradients[0]
        needed, tensors = list(ctx.needs_input_grad[1:]), list(ctx.saved_tensors)
        found: list[Tensor | None] = []
        for stage, length in zip(reversed(ctx.stages), reversed(ctx.lengths), strict=True):
            saved, tensors = tensors[-length:], tensors[:-length]
            *needed, to_weight, to_bias = needed
            if gradient is not None and stage.activation is not None:
                gradient = stage.activation.backward(gradient, saved[-1])
            if gradient is None:  # nothing below learns
                found += (None, None)
                continue
            gradient, own = stage.backward(gradient, saved, any(needed), to_weight or to_bias)
            found += reversed(own)
        return None, gradient, *reversed(found)


class Chain(nn.Sequential):
    """A ``Sequential`` that runs as one function where it can, and layer by layer where it cannot.

    It runs layer by layer while hooks are on a layer, under autocast, and on data that are no vectors.
    """

    stages: tuple[Stage, ...]

    def forward(self, x: Tensor) -> Tensor:
        """
        :param x: shape ``(batch, inputs)``
        :return: shape ``(batch, outputs)``
        """
        if x.dim() != 2 or any(map(_is_watched, self)) or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        if torch.is_grad_enabled():
            return RunChain.apply(self.stages, x, *(p for stage in self.stages for p in stage.parameters))
        for stage in self.stages:
            x, _ = stage.forward(x)
        return x


def _is_watched(layer: nn.Module) -> bool:
    """Whether somebody wants to know when the layer is called, or has put another ``forward`` on the object."""
    own: dict[str, Any] = layer.__dict__
    return bool(any(own[name] for name in HOOKS) or "forward" in own or _has_any_global_hook())


def fuse_chains(module: nn.Module) -> None:
    """Make every ``Sequential`` that holds a linear layer, and no layer that cannot join, a :class:`Chain`, in place.

    State dictionaries do not change. Subclasses of ``Sequential`` are left alone.

    :param module: a policy
    """
    for network in module.modules():
        if type(network) is not nn.Sequential or not any(type(layer) is nn.Linear for layer in network):
            continue
        stages = plan_stages(network)
        if stages is not None:
            network.__class__ = Chain
            network.__dict__["stages"] = stages


def separate_chains(module: nn.Module) -> None:
    """Undo :func:`fuse_chains`."""
    for network in module.modules():
        if type(network) is Chain:
            network.__class__ = nn.Sequential  # type: ignore[assignment]
            del network.__dict__["stages"]
