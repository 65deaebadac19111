"""Signals that ask a run to stop: it writes a checkpoint first."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

__all__ = ["RESUMABLE", "Interrupted", "Interruption", "interruption"]

RESUMABLE = 75
"""Exit code of a run that was stopped and can go on: ``EX_TEMPFAIL`` of ``sysexits.h``."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal stopped the run, which can go on later. Like ``KeyboardInterrupt``, it is no ``Exception``."""

    folder: Path | None = None
    """Of the run."""


class Interruption:
    """Whether a signal has asked this process to stop.

    Nothing is changed until :meth:`listen` is entered, as the command line does: in a script, Ctrl-C and SIGTERM do
    what they always do.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Handle Ctrl-C and SIGTERM inside of the block, in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.requested = False
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside of the block a first signal only sets :attr:`requested`, which is looked at after each rollout."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        repeated, self.requested = self.requested, True
        if self._deferred and not (repeated and number == signal.SIGINT):
            # print would fail if the signal came while something was printed
            with suppress(OSError):
                os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"\nStopping with a checkpoint.\n")
            return
        raise Interrupted


interruption = Interruption()
"""Of this process."""
