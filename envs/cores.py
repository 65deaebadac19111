"""How many cores there are, and whether one may be idle."""

from __future__ import annotations

import multiprocessing
import os

__all__ = ["spare_core", "usable_cores"]


def usable_cores() -> int:
    """Cores that this process may use; a scheduler or ``taskset`` may leave it fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spare_core() -> bool:
    """Whether a core may be idle while this process computes on one: hardly where it is one of a pool, as in a grid."""
    return usable_cores() > 1 and multiprocessing.current_process().name == "MainProcess"
