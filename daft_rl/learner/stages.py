"""The stages of a chain: a linear layer or a normalization, with the activation behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from sb3_contrib.common.torch_layers import BatchRenorm1d
from torch import Tensor, nn

from daft_rl.agents.renorm import FusedBatchRenorm1d, renormalize, renormalize_backward
from daft_rl.learner import products

__all__ = ["ACTIVATIONS", "Stage", "plan_stages"]

Saved = Sequence[Any]
Gradients = Sequence[Tensor | None]


class Activation(NamedTuple):
    """An activation whose derivative follows from its output."""

    forward: Callable[[Tensor], Tensor]
    """In place."""
    backward: Callable[[Tensor, Tensor], Tensor]
    """Of the output's gradient and the output."""


def _relu_backward(gradient: Tensor, output: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(gradient, output, 0)


def _tanh_backward(gradient: Tensor, output: Tensor) -> Tensor:
    return torch.ops.aten.tanh_backward(gradient, output)


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: Activation(torch.relu_, _relu_backward),
    nn.Tanh: Activation(torch.tanh_, _tanh_backward),
}


class Stage:
    """One step of a chain, with its gradient.

    :param layer: what it computes
    :param activation: what follows
    """

    def __init__(self, layer: Any, activation: Activation | None) -> None:
        self.layer, self.activation = layer, activation

    @property
    def parameters(self) -> tuple[Tensor, Tensor]:
        """Weight and bias."""
        return self.layer.weight, self.layer.bias

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        """The output, shape ``(batch, outputs)``, and what :meth:`backward` needs; the output comes last in it."""
        raise NotImplementedError

    def backward(
        self, gradient: Tensor, saved: Saved, to_input: bool, to_parameters: bool
    ) -> tuple[Tensor | None, Gradients]:
        """Gradients of the input, and of weight and bias.

        :param gradient: of the layer's output, before the activation
        :param to_input: whether the input's is needed
        :param to_parameters: whether one of the parameters' is needed
        """
        raise NotImplementedError


class LinearStage(Stage):
    """A linear layer."""

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        weight, bias = self.parameters
        output = products.linear(x, weight, bias)
        if self.activation is None:
            return output, (x, weight, None)
        # oneDNN's own ReLU makes 0 of what is not a number, which hides that learning has diverged
        output = self.activation.forward(output)
        return output, (x, weight, output)

    def backward(
        self, gradient: Tensor, saved: Saved, to_input: bool, to_parameters: bool
    ) -> tuple[Tensor | None, Gradients]:
        x, weight, _ = saved
        own = (products.to_weight(gradient, x), gradient.sum(0)) if to_parameters else (None, None)
        return products.to_input(gradient, weight) if to_input else None, own


class BatchNormStage(Stage):
    """BatchNorm, by PyTorch's own kernels."""

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        layer, (weight, bias) = self.layer, self.parameters
        if layer.training:
            if len(x) == 1:
                raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")
            layer.num_batches_tracked.add_(1)
        running = (layer.running_mean, layer.running_var)
        output, mean, inverse = torch.native_batch_norm(
            x, weight, bias, *running, layer.training, layer.momentum, layer.eps
        )
        output = output if self.activation is None else self.activation.forward(output)
        kept = (None, None) if layer.training else _copies(running)
        return output, (x, weight, *kept, mean, inverse, output)

    def backward(
        self, gradient: Tensor, saved: Saved, to_input: bool, to_parameters: bool
    ) -> tuple[Tensor | None, Gradients]:
        x, weight, *running, mean, inverse, _ = saved
        by_batch = mean.numel() > 0  # the layer's mode may be another one by now
        wanted = [to_input, to_parameters, to_parameters]
        through, *own = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, *running, mean, inverse, by_batch, self.layer.eps, wanted
        )
        return through, own


class BatchRenormStage(Stage):
    """sb3-contrib's batch renormalization: by running statistics it is BatchNorm."""

    @property
    def parameters(self) -> tuple[Tensor, Tensor]:
        return self.layer.scale, self.layer.bias

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        layer, (weight, bias) = self.layer, self.parameters
        if layer.training:
            output, parts = renormalize(layer, x)
        else:
            running = (layer.ra_mean, layer.ra_var)
            output, *empty = torch.native_batch_norm(x, weight, bias, *running, False, 0, layer.eps)
            parts = (weight, *_copies(running), *empty)
        output = output if self.activation is None else self.activation.forward(output)
        return output, (x, *parts, output)

    def backward(
        self, gradient: Tensor, saved: Saved, to_input: bool, to_parameters: bool
    ) -> tuple[Tensor | None, Gradients]:
        x, *parts, _ = saved
        if parts[-1].numel():  # the layer's mode may be another one by now
            through, *own = renormalize_backward(gradient, x, parts)
            return through, own
        wanted = [to_input, to_parameters, to_parameters]
        through, *own = torch.ops.aten.native_batch_norm_backward(gradient, x, *parts, False, self.layer.eps, wanted)
        return through, own


def _copies(running: Iterable[Tensor]) -> list[Tensor]:
    """Statistics that the gradient is computed with, whatever a later batch makes of the layer's."""
    return [statistic.clone() for statistic in running]


def plan_stages(layers: Iterable[nn.Module]) -> tuple[Stage, ...] | None:
    """The stages of these layers, or ``None`` if one of them cannot join.

    :param layers: as they follow each other
    """
    rest = [layer for layer in layers if not isinstance(layer, nn.Flatten | nn.Identity)]
    stages: list[Stage] = []
    while rest:
        layer = rest.pop(0)
        activation = ACTIVATIONS[type(rest.pop(0))] if rest and type(rest[0]) in ACTIVATIONS else None
        kind = _kind_of_stage(layer)
        if kind is None:
            return None
        stages.append(kind(layer, activation))
    return tuple(stages)


def _kind_of_stage(layer: Any) -> type[Stage] | None:
    if type(layer) is nn.Linear and layer.bias is not None:
        return LinearStage
    if type(layer) is nn.BatchNorm1d and layer.affine and layer.track_running_stats and layer.momentum is not None:
        return BatchNormStage
    return BatchRenormStage if type(layer) in (BatchRenorm1d, FusedBatchRenorm1d) and layer.affine else None
