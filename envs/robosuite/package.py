"""The import of robosuite. It takes seconds, so it waits until a task of robosuite is made."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from daft_rl.envs.dependencies import require_installed
from daft_rl.errors import TaskError

__all__ = ["import_robosuite"]


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Suppress side effects of robosuite's import: messages, a change of ``MUJOCO_GL``, files in its own folder."""
    from numba import config

    logger = logging.getLogger("robosuite_logs")
    rendering, cache = os.environ.get("MUJOCO_GL"), config.CACHE_DIR  # type: ignore[attr-defined]

    def only_errors(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger.addFilter(only_errors)
    if not cache:  # without a cache of compiled code, every process compiles for half a minute
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        config.CACHE_DIR = str(Path(home) / "daft_rl" / "numba")  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of Python 3.12, for backslashes in texts
            yield
    finally:
        config.CACHE_DIR = cache  # type: ignore[attr-defined]
        logger.removeFilter(only_errors)
        if rendering is None:
            os.environ.pop("MUJOCO_GL", None)
        else:
            os.environ["MUJOCO_GL"] = rendering
    logger.setLevel(logging.ERROR)  # Wipe warns at every step near a joint limit


def import_robosuite() -> ModuleType:
    """Import robosuite silently. If it was imported before, its logging stays as it is.

    :return: the module ``robosuite``
    :raises TaskError: robosuite is not installed, or its import fails
    """
    if "robosuite" in sys.modules:
        return sys.modules["robosuite"]
    require_installed("robosuite")
    try:
        with _quiet_import():
            import robosuite

            import daft_rl.envs.robosuite.kernels  # noqa: F401, compiled into the same cache
    except (ImportError, AttributeError) as error:
        raise TaskError(
            f"robosuite is installed, but its import fails ({error}). "
            "It needs mujoco 3.9: pip install 'daft-rl[robosuite]'."
        ) from error
    return robosuite
