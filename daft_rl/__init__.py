"""daft_rl moves pretrained reinforcement-learning policies to environments whose dynamics have shifted.

What this module lists in ``__all__`` is public. Everything else is private and may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daft_rl.archives import load_agent
    from daft_rl.batchnorm import convert_batchnorm
    from daft_rl.blend import blend
    from daft_rl.envs.registry import levels
    from daft_rl.envs.registry import task_names as tasks
    from daft_rl.errors import DaftError
    from daft_rl.finetune import adapt
    from daft_rl.method import Method, methods
    from daft_rl.policy import insert_batchnorm
    from daft_rl.run.results import TransferResult
    from daft_rl.transfer import transfer

__version__ = "0.2.0"
__all__ = [
    "DaftError",
    "Method",
    "TransferResult",
    "__version__",
    "adapt",
    "blend",
    "convert_batchnorm",
    "insert_batchnorm",
    "levels",
    "load_agent",
    "methods",
    "tasks",
    "transfer",
]

_HOMES = {
    "DaftError": "daft_rl.errors:DaftError",
    "Method": "daft_rl.method:Method",
    "TransferResult": "daft_rl.run.results:TransferResult",
    "adapt": "daft_rl.finetune:adapt",
    "convert_batchnorm": "daft_rl.batchnorm:convert_batchnorm",
    "insert_batchnorm": "daft_rl.policy:insert_batchnorm",
    "levels": "daft_rl.envs.registry:levels",
    "load_agent": "daft_rl.archives:load_agent",
    "methods": "daft_rl.method:methods",
    "tasks": "daft_rl.envs.registry:task_names",
}


def __getattr__(name: str) -> Any:
    """Import on first use: PyTorch takes seconds, and an error on the command line should not wait for it."""
    if name in ("blend", "transfer"):  # modules that can be called
        return import_module(f"daft_rl.{name}")
    if name in _HOMES:
        module, _, attribute = _HOMES[name].partition(":")
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'daft_rl' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
