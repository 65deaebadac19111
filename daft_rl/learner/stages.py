"""The stages of a chain: a linear layer or a normalization, with the activation behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from sb3_contrib.common.torch_layers import BatchRenorm1d
from torch import Tensor, nn

from daft_rl.agents.renorm import renormalize, renormalize_backward
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
RELU = ACTIVATIONS[nn.ReLU]


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
        output = products.linear(x, weight, bias, relu=self.activation is RELU)
        if self.activation is None:
            return output, (x, weight, None)
        if self.activation is not RELU:
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
            layer.num_batches_tracked.add_(1)
        running = (layer.running_mean, layer.running_var)
        output, mean, inverse = torch.native_batch_norm(
            x, weight, bias, *running, layer.training, layer.momentum, layer.eps
        )
        output = output if self.activation is None else self.activation.forward(output)
        return output, (x, weight, mean, inverse, output)

    def backward(
        self, gradient: Tensor, saved: Saved, to_input: bool, to_parameters: bool
    ) -> tuple[Tensor | None, Gradients]:
        layer, (x, weight, mean, inverse, _) = self.layer, saved
        by_batch = mean.numel() > 0  # the layer's mode may be another one by now
        wanted = [to_input, to_parameters, to_parameters]
        running = (layer.running_mean, layer.running_var)
        through, *own = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, *running, mean, inverse, by_batch, layer.eps, wanted
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
            output, *parts = torch.native_batch_norm(x, weight, bias, layer.ra_mean, layer.ra_var, False, 0, layer.eps)
        output = output if self.activation is None else self.activation.forward(output)
        return output, (x, *parts, output)

    def backward(
        self, gradient: Tensor, saved: Saved, to_input: bool, to_parameters: bool
    ) -> tuple[Tensor | None, Gradients]:
        layer, (x, *parts, _) = self.layer, saved
        if len(parts) > 2:
            through, *own = renormalize_backward(gradient, x, parts)
            return through, own
        wanted, weight = [to_input, to_parameters, to_parameters], self.parameters[0]
        running = (layer.ra_mean, layer.ra_var)
        through, *own = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, *running, *parts, False, layer.eps, wanted
        )
        return through, own


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
    return BatchRenormStage if isinstance(layer, BatchRenorm1d) and layer.affine else None
