"""What every reader of an archive refuses, as one kind of error."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import torch
from torch import Tensor

from daft_rl.errors import AgentError

__all__ = ["TRUST", "check_directory", "check_tensor", "wrap_errors"]

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


def check_directory(file: IO[bytes], limit: int) -> None:
    """Check the size of a zip's table of contents before a reader makes an object of each entry.

    :param file: is at its start afterwards
    :param limit: bytes
    :raises ValueError: it is larger, or there is none
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - 2**16 - 22))  # a comment of at most 2**16 bytes may follow the last record
    tail = file.read()
    file.seek(0)
    start = tail.rfind(b"PK\x05\x06")
    if start < 0 or len(tail) < start + 22:
        raise ValueError("it is no zip file")
    entries, directory = struct.unpack("<HL", tail[start + 10 : start + 16])
    if directory > limit:
        raise ValueError(f"its table of contents has {directory} bytes ({entries} members), more than {limit}")
