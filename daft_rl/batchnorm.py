"""Batch-normalization conversion (DAFT, AAAI 2024, section "Batch normalization conversion").

A BatchNorm layer in evaluation mode computes

    y = gamma * (x - mu) / sqrt(var + eps) + beta

with running statistics ``mu, var`` of the *source* domain. Conversion replaces them by the statistics
of the *target* domain and compensates in ``gamma, beta``, so that the function does not change:

    beta'  = beta + (mu_t - mu) * gamma / sqrt(var + eps)
    gamma' = gamma * sqrt(var_t + eps) / sqrt(var + eps)

Because the function does not change, the inputs of deeper layers do not change either: one pass over
the target data measures every layer exactly. Nothing here knows of reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from daft_rl.errors import BatchNormError

try:  # sb3-contrib is a dependency of daft_rl, not of this idea
    from sb3_contrib.common.torch_layers import BatchRenorm
except ImportError:  # pragma: no cover
    BatchRenorm = None  # type: ignore[assignment, misc]

__all__ = [
    "BatchNormLayer",
    "Moments",
    "Statistics",
    "apply_statistics",
    "batchnorm_layers",
    "convert_batchnorm",
    "evaluation_mode",
    "measure_statistics",
    "mix_statistics",
    "running_statistics",
]


@dataclass(frozen=True)
class BatchNormLayer:
    """The four tensors of a normalization layer, under one set of names.

    PyTorch's ``_BatchNorm`` and sb3-contrib's ``BatchRenorm`` keep the same things under different names.
    The tensors are the layer's own: editing them in place edits the layer (SB3's off-policy algorithms
    hold references to the statistics, so in place is the only safe way).
    """

    module: nn.Module
    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float


def _is_batchnorm(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) or (BatchRenorm is not None and isinstance(module, BatchRenorm))


def _view(name: str, module: nn.Module) -> BatchNormLayer:
    if isinstance(module, _BatchNorm):
        if module.running_mean is None or module.running_var is None:
            raise BatchNormError(
                f"BatchNorm layer '{name}' has no running statistics (track_running_stats=False): it always "
                "normalizes with the current batch and has no source statistics to convert. Build it with "
                "track_running_stats=True."
            )
        return BatchNormLayer(module, module.running_mean, module.running_var, module.weight, module.bias, module.eps)
    affine = bool(module.affine)
    weight, bias = (module.scale, module.bias) if affine else (None, None)
    return BatchNormLayer(module, module.ra_mean, module.ra_var, weight, bias, module.eps)  # type: ignore[arg-type]


def batchnorm_layers(module: nn.Module) -> dict[str, BatchNormLayer]:
    """Every BatchNorm and BatchRenorm layer inside ``module``, by its dotted name, each layer once.

    :param module: any torch module
    :return: name -> layer, in the order of ``module.named_modules()``
    :raises BatchNormError: for a layer that keeps no running statistics
    """
    return {name: _view(name, child) for name, child in module.named_modules() if _is_batchnorm(child)}


class Statistics:
    """Mean and variance per channel, pooled exactly over batches of any sizes.

    Chan, Golub and LeVeque's parallel update in float64: the between-batch variance is kept (averaging
    per-batch variances, as the paper's released code does, loses it), and no sample is stored.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Tensor | None = None
        self._m2: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """Add a batch.

        :param x: shape ``(N, C, ...)``: everything but the channel axis 1 is pooled
        """
        x = x.detach().to(torch.float64)
        x = x.movedim(1, -1).reshape(-1, x.shape[1])
        count = x.shape[0]
        if count == 0:
            return
        mean = x.mean(dim=0)
        m2 = (x - mean).square().sum(dim=0)
        if self._mean is None or self._m2 is None:
            self.count, self._mean, self._m2 = count, mean, m2
            return
        total = self.count + count
        delta = mean - self._mean
        self._mean = self._mean + delta * (count / total)
        self._m2 = self._m2 + m2 + delta.square() * (self.count * count / total)
        self.count = total

    @property
    def finite(self) -> bool:
        """Whether all values were finite."""
        return self._m2 is None or bool(torch.isfinite(self._m2).all())

    @property
    def mean(self) -> Tensor:
        """Mean per channel, float64, shape ``(C,)``."""
        if self._mean is None:
            raise BatchNormError("No data: the mean of no batches is not defined. Pass at least one batch.")
        return self._mean

    @property
    def var(self) -> Tensor:
        """Unbiased variance per channel, float64, shape ``(C,)``."""
        if self._m2 is None or self.count < 2:
            raise BatchNormError(
                f"Variance needs at least 2 values per channel, got {self.count}. Pass more calibration data."
            )
        return self._m2 / (self.count - 1)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put ``module`` in evaluation mode, and every submodule back into the mode it was in."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, training in modes:
            child.training = training


def measure_statistics(
    module: nn.Module,
    batches: Iterable[Tensor | tuple[Any, ...]],
    forward: Callable[..., Any] | None = None,
) -> dict[str, Statistics]:
    """Measure the inputs of every BatchNorm layer while ``module`` runs over ``batches`` in evaluation mode.

    :param module: the network; it is left as it was found: same modes, no hooks, no changed buffer
    :param batches: tensors, or tuples of arguments, for ``forward``
    :param forward: what to call with them; ``module`` itself by default
    :return: layer name -> pooled statistics of its input. Layers that the forward pass never reached
        are left out; a layer called several times pools all its inputs.
    :raises BatchNormError: when ``batches`` is empty or holds no rows, or a layer gets NaN or infinite values
    """
    forward = module if forward is None else forward
    layers = batchnorm_layers(module)
    pooled = {name: Statistics() for name in layers}
    handles = []
    reached: set[str] = set()
    seen = False
    try:
        for name, layer in layers.items():

            def record(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                reached.add(name)
                pooled[name].update(args[0])

            handles.append(layer.module.register_forward_pre_hook(record))
        with evaluation_mode(module), torch.no_grad():
            for batch in batches:
                seen = True
                if isinstance(batch, tuple):
                    forward(*batch)
                else:
                    forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise BatchNormError("`batches` is empty: BatchNorm statistics need calibration data.")
    for name, statistics in pooled.items():
        if name in reached and not statistics.count:
            raise BatchNormError(
                f"BatchNorm layer '{name}' gets no values: all batches are empty. Pass batches of rows."
            )
        if not statistics.finite:
            raise BatchNormError(
                f"BatchNorm layer '{name}' gets values that are NaN or infinite: one such row of the data spoils the "
                "statistics. Leave out those rows; if there are none, the weights are not finite."
            )
    return {name: statistics for name, statistics in pooled.items() if statistics.count}


@dataclass(frozen=True)
class Moments:
    """Mean and variance per channel, each of shape ``(C,)``."""

    mean: Tensor
    var: Tensor


def mix_statistics(
    module: nn.Module, statistics: Mapping[str, Statistics | Moments], weight: float
) -> dict[str, Moments]:
    """Statistics of a mixture of old and new data.

    :param module: its running statistics describe the old data
    :param statistics: of the new data, by layer name
    :param weight: share of the new data, 0 to 1
    :return: layer name -> mean and variance of the mixture
    """
    layers = batchnorm_layers(module)
    mixed = {}
    for name, new in statistics.items():
        mean, var = layers[name].mean.double(), layers[name].var.double()
        delta = new.mean - mean
        mixed[name] = Moments(
            mean + weight * delta,
            (1 - weight) * var + weight * new.var + weight * (1 - weight) * delta.square(),
        )
    return mixed


@torch.no_grad()
def apply_statistics(
    module: nn.Module,
    statistics: Mapping[str, Statistics | Moments],
    preserve_function: bool = True,
) -> None:
    """Give the BatchNorm layers of ``module`` new running statistics, in place.

    :param module: the network that was measured, or one of the same structure (a target network gets
        the statistics of its online network and still keeps its own function)
    :param statistics: what :func:`measure_statistics` or :func:`mix_statistics` returned
    :param preserve_function: convert (``gamma`` and ``beta`` compensate, the evaluation-mode function
        does not change); ``False`` only replaces the statistics, as AdaBN does, and changes the function
    :raises BatchNormError: for a layer without affine parameters (``affine=False``), which cannot
        compensate; no layer is changed then
    """
    layers = batchnorm_layers(module)
    pending: list[tuple[Tensor, Tensor]] = []
    for name, new in statistics.items():
        layer = layers[name]
        mean, var = new.mean.to(layer.mean.device), new.var.to(layer.var.device)
        if preserve_function:
            if layer.weight is None or layer.bias is None:
                raise BatchNormError(
                    f"BatchNorm layer '{name}' has affine=False: it has no scale and shift that could absorb "
                    "new statistics. Build it with affine=True (weight 1, bias 0 is the same function)."
                )
            weight, bias = layer.weight.double(), layer.bias.double()
            slope = weight / (layer.var.double() + layer.eps).sqrt()
            # float32 storage of the statistics is part of the layer: compensate for what is stored
            mean, var = mean.to(layer.mean.dtype).double(), var.to(layer.var.dtype).double()
            pending.append((layer.bias, bias + (mean - layer.mean.double()) * slope))
            pending.append((layer.weight, slope * (var + layer.eps).sqrt()))
        pending.append((layer.mean, mean))
        pending.append((layer.var, var))
    for tensor, value in pending:
        tensor.copy_(value)


def convert_batchnorm(module: nn.Module, batches: Iterable[Tensor | tuple[Any, ...]]) -> dict[str, Statistics]:
    """Convert every BatchNorm layer of ``module`` to the statistics of ``batches``, in place.

    In evaluation mode ``module`` computes the same function as before; its running statistics are then
    the exact pooled mean and unbiased variance of the batches.

    :param module: a network with ``nn.BatchNorm1d/2d/3d``, ``SyncBatchNorm`` or sb3-contrib's
        ``BatchRenorm1d`` layers, on any device
    :param batches: an iterable of tensors or of tuples of arguments for ``module(...)``
    :return: layer name -> measured statistics
    :raises BatchNormError: no data, fewer than two values per channel, or a layer that cannot be converted
    """
    statistics = measure_statistics(module, batches)
    apply_statistics(module, statistics)
    return statistics


def running_statistics(module: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """A copy of the running mean and variance of every BatchNorm layer, by layer name."""
    return {
        name: (layer.mean.detach().clone(), layer.var.detach().clone())
        for name, layer in batchnorm_layers(module).items()
    }
