"""Objects by their import path."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from daft_rl.errors import ConfigError, DaftError

__all__ = ["load_object"]


def load_object(path: str, error: type[DaftError] = ConfigError) -> Any:
    """Import ``module:name``.

    :param path: for instance ``"my_package:MyPolicy"``
    :param error: what to raise
    :raises DaftError: there is no such module or name
    """
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except Exception as problem:  # a module may raise anything while it is imported
        raise error(f"'{path}' cannot be imported: {problem}. Expected module:name.") from problem
