"""Signals that ask a run to stop: it writes a checkpoint first."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

__all__ = ["RESUMABLE", "Interrupted", "Interruption", "interruption"]

RESUMABLE = 75
"""Exit code of a run that was stopped and can go on: ``EX_TEMPFAIL`` of ``sysexits.h``."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, the end of a job, and the end of a terminal."""
OF_SCHEDULERS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""Signals on which a scheduler's library, such as Submitit, queues a job again."""


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
        self.raised = False
        """Whether :class:`Interrupted` was raised. A library may answer it by an error of its own as it cleans up."""
        self._deferred = False
        self._number = signal.SIGTERM

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Handle the signals inside of the block, in the main thread.

        Those that were ignored before still are, as ``nohup`` wants SIGHUP, and a shell Ctrl-C in its background.
        """
        self.raised = False
        with self._handling([number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]):
            yield

    @contextmanager
    def before_requeueing(self) -> Iterator[None]:
        """Inside of the block, a signal on which a library queues this job again waits until the run has stopped."""
        numbers = [number for number in OF_SCHEDULERS if callable(signal.getsignal(number))]
        try:
            with self._handling(numbers):
                yield
        except Interrupted:
            if self._number in numbers:
                signal.raise_signal(self._number)  # the library ends this process
            raise

    @contextmanager
    def _handling(self, numbers: Sequence[int]) -> Iterator[None]:
        if not numbers or threading.current_thread() is not threading.main_thread():
            yield
            return
        self.requested = False
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            self.requested = False
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
        self._number = signal.Signals(number)
        if self._deferred and not (repeated and number == signal.SIGINT):
            with suppress(OSError, ValueError):  # the terminal may be gone
                # print would fail if the signal came while something was printed
                os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"\nStopping with a checkpoint.\n")
            return
        self.stop()

    def stop(self) -> NoReturn:
        """
        :raises Interrupted: always
        """
        self.raised = True
        raise Interrupted


interruption = Interruption()
"""Of this process."""
