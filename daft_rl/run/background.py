"""Calling a function in a copy of this process, which goes on meanwhile: how evaluations use an idle core."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from daft_rl.errors import WorkerError

__all__ = ["BackgroundCall"]

T = TypeVar("T")

NICENESS = 5
"""Of the copy: the process that learns goes before. Much more, and it would starve where other programs run."""

GRACE = 5.0
"""Seconds in which a copy may end of its own accord."""


class BackgroundCall(Generic[T]):
    """One call, begun on construction.

    The copy is a fork: it sees everything as it was at that moment, at no cost, and what it changes is lost, but for
    files. Of this process's threads it has none.

    :param function: takes nothing; what it returns or raises is pickled
    :param fork: ``False`` calls it here, at once; so it is, and that is told, where the system has no memory for a
        copy, which it counts as if nothing were shared
    """

    def __init__(self, function: Callable[[], T], fork: bool = True) -> None:
        self.seconds = 0.0
        """How long it took, in another process."""
        self._outcome: tuple[T | None, BaseException | None] | None = None
        self._process: Any = None
        if fork:
            self._copy(function)
        if self._process is None:
            self._outcome = function(), None

    def _copy(self, function: Callable[[], T]) -> None:
        context: Any = multiprocessing.get_context("fork")
        connection, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        with theirs, warnings.catch_warnings():
            # Python 3.12 warns of locks that other threads may hold: the copy uses nothing that belongs to one
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                process.start()
            except OSError as error:
                connection.close()
                warnings.warn(
                    f"The process that learns evaluates too, since it cannot be copied: {error}. "
                    "With evaluate_beside=false it does so from the start.",
                    stacklevel=2,
                )
                return
        self._process, self._connection = process, connection
        self._poll = select.poll()  # the connection's own poll() makes one each time, which an agent's step would feel
        self._poll.register(self._connection, select.POLLIN)

    def ready(self) -> bool:
        """Whether :meth:`result` would not wait."""
        return self._outcome is not None or bool(self._poll.poll(0))

    def result(self) -> T:
        """Wait for what the function returns.

        :raises Exception: what it raised
        :raises WorkerError: the copy was killed
        """
        if self._outcome is None:
            try:
                value, error, self.seconds = self._connection.recv()
            except EOFError:
                self._process.join()
                code = self._process.exitcode
                error = WorkerError(
                    f"The process that evaluates ended with exit code {code}{' (out of memory?)' * (code == -9)}. "
                    "With evaluate_beside=false the process that learns evaluates."
                )
                value = None
            self._outcome = value, error
            self._process.join()
        value, error = self._outcome
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def cancel(self) -> None:
        """End the copy, if it still runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.join(GRACE)
            self._process.kill()  # one that does not listen
            self._process.join()
            self._connection.close()


def _serve(function: Callable[[], Any], connection: Connection) -> None:
    """The life of the copy."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too; the other process ends it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an exception, so that unfinished files go
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(NICENESS)
    started = time.perf_counter()
    value, error = None, None
    try:
        value = function()
    except Exception as raised:
        error = raised
    with suppress(BrokenPipeError):
        connection.send((value, error, time.perf_counter() - started))


def _end_with_parent() -> None:
    """A process that is killed can end nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
