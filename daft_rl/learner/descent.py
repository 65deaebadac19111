"""Steps down a gradient, and what losses and target networks are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.optim import Optimizer

__all__ = ["backward", "constant", "copy_statistics", "descend", "lowest", "squared_errors"]


def descend(optimizer: Optimizer, loss: Tensor) -> None:
    """One step down the gradient for the parameters of one optimizer."""
    backward(optimizer, loss)
    optimizer.step()


def backward(optimizer: Optimizer, loss: Tensor) -> None:
    """Compute the gradient for the parameters of one optimizer.

    SB3 computes it for all networks that the loss runs through, and throws the others' away.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:  # a frozen one may have a gradient from before it was frozen
        parameter.grad = None
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    if learning:
        loss.backward(inputs=learning)


@contextmanager
def constant(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Inside, these parameters get no gradient."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def squared_errors(values: Iterable[Tensor], targets: Tensor) -> Tensor:
    """The mean squared errors of several critics, added up."""
    return reduce(torch.add, [mse_loss(value, targets) for value in values])


def lowest(values: tuple[Tensor, ...]) -> Tensor:
    """The lowest of several critics' values, shape ``(batch, 1)``."""
    return torch.cat(values, dim=1).min(dim=1, keepdim=True).values


@torch.no_grad()
def copy_statistics(statistics: list[Tensor], targets: list[Tensor]) -> None:
    """Give target networks the running statistics of BatchNorm (SB3 issue #996)."""
    if targets:
        torch._foreach_copy_(targets, statistics)
