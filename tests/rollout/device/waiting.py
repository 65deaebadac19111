"""Finds what would wait for a GPU, on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten: Any = torch.ops.aten
WAITS = {
    aten._local_scalar_dense.default,  # .item(), and an `if` on a tensor
    aten.nonzero.default,  # indexing by Booleans
    aten.masked_select.default,
    aten.equal.default,
    aten.lift_fresh.default,  # a tensor made of Python numbers
}


class NeverWaits(TorchDispatchMode):
    """Inside, an operation that reads a tensor on the host, or copies from it, is an error."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in WAITS, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))
