"""What every reader of an archive refuses, as one kind of error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from daft_rl.errors import AgentError

__all__ = ["TRUST", "check_tensor", "wrap_errors"]

TRUST = "if you trust whoever made the file, trust=True"
"""The remedy where a file cannot be read without running code from it."""


@contextmanager
def wrap_errors(what: str, advice: str = "", arguments: tuple[str, ...] = ()) -> Iterator[None]:
    """Turn whatever a library raises inside into one :class:`AgentError` that starts with ``what``.

    The exceptions are not listed: zipfile, json, torch and SB3 do not promise which ones damaged or
    hostile input provokes (``zlib.error``, ``struct.error``, ``RecursionError``, ``AssertionError``...).

    :param what: beginning of the message
    :param advice: end of the message
    :param arguments: names of Python arguments that would help
    """
    try:
        yield
    except AgentError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        message = f"{what}: {type(error).__name__}: {reason} {advice}".rstrip()
        raise AgentError(message, arguments=arguments) from error


def check_tensor(name: str, tensor: Any) -> Tensor:
    """Accept a plain, finite, dense tensor that owns the memory its shape claims.

    :param name: what the message calls it
    :raises AgentError: anything else. Expanded tensors are refused too: a shape of terabytes over a storage
        of one number is valid for PyTorch, and any arithmetic on it would exhaust memory.
    """
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        raise AgentError(f"'{name}' should be a tensor, got {type(tensor).__name__}.")
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_complex() or tensor.is_quantized:
        raise AgentError(f"'{name}' should be a dense real tensor, got {tensor.dtype}, {tensor.layout}.")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise AgentError(f"'{name}' claims shape {tuple(tensor.shape)}, for which the file holds too few numbers.")
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise AgentError(f"'{name}' holds NaN or infinite values: the agent was saved after its training diverged.")
    return tensor.detach()
