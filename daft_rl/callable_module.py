"""A module that can be called, for a program and a function of one name."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["make_callable"]


class _CallableModule(ModuleType):
    _function: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (self.__name__,)


def make_callable(name: str, function: Callable[..., Any]) -> None:
    """Let a module be called like one of its functions, so that ``from daft_rl import transfer`` gives both.

    :param name: of the module
    :param function: of the module
    """
    module: Any = sys.modules[name]
    module.__class__ = _CallableModule
    module._function = function
    module.__signature__ = inspect.signature(function)
