"""Simulators that are installed separately, and what to say where one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from daft_rl.errors import TaskError

__all__ = ["check_installed"]

INSTALL = {
    "mujoco": "pip install daft-rl",
    "robosuite": "pip install 'daft-rl[robosuite]'",
    "safety_gymnasium": "pip install 'daft-rl[safety]' && pip install --no-deps safety-gymnasium==1.0.0",
}


def check_installed(package: str) -> None:
    """
    :param package: a key of ``INSTALL``
    :raises TaskError: it is not installed; one line that says how to
    """
    if find_spec(package) is None:
        raise TaskError(f"This task needs {package}, which is not installed: {INSTALL[package]}")
