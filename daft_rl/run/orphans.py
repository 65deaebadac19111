"""Processes of a launcher that end when the program that started them has ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

__all__ = ["end_with_launcher"]

LOOK_SECONDS = 1.0
"""Time between two looks at the parent."""

GRACE_SECONDS = 10.0
"""Time between SIGTERM, on which a run may save what it has, and the end."""


def end_with_launcher() -> None:
    """End this process soon after the program that started it, if joblib did so for a grid or a sweep.

    A program that is killed cannot end its workers, and joblib's would finish their cells and then wait for ever, with
    half a gigabyte each. In a process that somebody else started, such as a shell, this does nothing.
    """
    if not type(multiprocessing.current_process()).__module__.startswith("joblib.externals.loky"):
        return
    if any(thread.name == _end_after.__name__ for thread in threading.enumerate()):
        return  # a worker runs many cells
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    # it may have ended already, while this process imported PyTorch
    threading.Thread(target=_end_after, args=(launcher.pid,), name=_end_after.__name__, daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)
