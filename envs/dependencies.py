"""Simulators that are installed separately."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from daft_rl.errors import TaskError

__all__ = ["require_installed"]

INSTALL_COMMANDS = {
    "mujoco": "pip install daft-rl",
    "mujoco_warp": "pip install 'daft-rl[cuda]'",
    # pip cannot meet robosuite's own pins on newer versions of Python
    "robosuite": "pip install 'daft-rl[robosuite]'"
    + (" && pip install --no-deps robosuite==1.5.2" if sys.version_info >= (3, 13) else ""),
    "safety_gymnasium": "pip install 'daft-rl[safety]' && pip install --no-deps safety-gymnasium==1.0.0",
}


def require_installed(package: str) -> None:
    """Check that a package can be imported.

    :param package: a key of ``INSTALL_COMMANDS``, or ``gymnasium``
    :raises TaskError: the package is not installed; the message has the command that installs it
    """
    if find_spec(package) is None:
        raise TaskError(f"This task needs {package}, which is not installed: {INSTALL_COMMANDS[package]}")
