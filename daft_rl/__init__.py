"""daft_rl moves pretrained reinforcement-learning policies to environments whose dynamics have shifted."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daft_rl.archives import load_agent
    from daft_rl.batchnorm import convert_batchnorm
    from daft_rl.errors import DaftError
    from daft_rl.policy import insert_batchnorm

__version__ = "0.1.0"
__all__ = ["DaftError", "__version__", "convert_batchnorm", "insert_batchnorm", "load_agent"]

_HOME = {
    "convert_batchnorm": "daft_rl.batchnorm",
    "load_agent": "daft_rl.archives",
    "DaftError": "daft_rl.errors",
    "insert_batchnorm": "daft_rl.policy",
}


def __getattr__(name: str) -> Any:
    """Import on first use: PyTorch takes seconds, and an error on the command line should not wait for it."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'daft_rl' has no attribute '{name}'")
