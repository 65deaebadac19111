"""The matrix products of a linear layer and of its gradients by oneDNN.

PyTorch multiplies by Intel's MKL, which uses AVX-512 on Intel's processors only. oneDNN, which comes with PyTorch too,
uses it on AMD's as well: there it is twice as fast for matrices of 256 x 256 (issue #26). Elsewhere the two are level.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["has_onednn", "is_amd_with_avx512", "linear", "to_input", "to_weight"]

CPUINFO = Path("/proc/cpuinfo")
WORTHWHILE = 2**20
"""Multiplications from which on oneDNN is called; below, its call takes longer than the product."""


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A layer's output.

    :param x: shape ``(batch, inputs)``
    :param weight: shape ``(outputs, inputs)``
    :param bias: shape ``(outputs,)``
    :return: shape ``(batch, outputs)``
    """
    if _suits(x, weight, len(weight)):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return torch.addmm(bias, x, weight.t())


def to_input(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient of the input, shape ``(batch, inputs)``, from that of the output."""
    return _product(gradient, weight)


def to_weight(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of the weight, shape ``(outputs, inputs)``, from that of the output."""
    return _product(gradient.t(), x)


def _product(first: Tensor, second: Tensor) -> Tensor:
    if _suits(first, second, second.shape[1]):
        return torch.ops.mkldnn._linear_pointwise(first, second.t(), None, "none", [], "")
    return first.mm(second)


def _suits(first: Tensor, second: Tensor, columns: int) -> bool:
    """Whether oneDNN takes these matrices, and gains.

    :param columns: of their product
    """
    floats = first.dtype == second.dtype == torch.float32
    return floats and first.device.type == "cpu" and first.numel() * columns >= WORTHWHILE


@cache
def has_onednn() -> bool:
    """Whether this PyTorch was built with oneDNN's operator."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def is_amd_with_avx512() -> bool:
    """Whether the processor is one of AMD's that has AVX-512."""
    with_avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return with_avx512 and CPUINFO.exists() and "AuthenticAMD" in CPUINFO.read_text()
