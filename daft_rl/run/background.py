"""Call a function in a forked copy of this process. Evaluations use it to run on an idle core."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from daft_rl.errors import DaftWarning, RemoteError, WorkerError
from daft_rl.run.interruption import OF_SCHEDULERS, SIGNALS

__all__ = ["BackgroundCall"]

T = TypeVar("T")

NICENESS = 5
"""Niceness of the fork, so that learning goes first. With a much higher value the fork would starve on a busy
machine."""

TERMINATION_SECONDS = 5.0
"""Time that a cancelled fork has to end on its own."""

CANCEL = getattr(signal, "SIGRTMIN", signal.SIGTERM)  # a system without it has no forks
"""Ends a fork. Schedulers and terminals send other signals."""

FORK_ARGUMENT = ("evaluate_in_background",)


class BackgroundCall(Generic[T]):
    """One call of a function. It starts when the object is made.

    The fork shares the memory of this process as it is at that moment. It has none of its threads. What it changes in
    memory is lost; what it writes to files stays.

    :param function: takes no arguments. What it returns must be picklable
    :param fork: ``False`` calls the function in this process and waits. If the system has no memory for a fork, the
        object warns and does the same
    :param instead: what :meth:`result` calls in this process if the fork is killed, with a warning: it returns what the
        function would have returned. ``None`` calls the function
    """

    def __init__(self, function: Callable[[], T], fork: bool = True, instead: Callable[[], T] | None = None) -> None:
        self.seconds = 0.0
        """Time that the call took in the fork; 0 if it ran in this process."""
        self.killed = False
        """Whether the fork was killed."""
        self._instead: Callable[[], T] | None = instead or function
        self._outcome: tuple[T | None, BaseException | None] | None = None
        self._process: Any = None
        if fork:
            self._start_fork(function)
        if self._process is None:
            self._outcome, self._instead = (function(), None), None

    def _start_fork(self, function: Callable[[], T]) -> None:
        context: Any = multiprocessing.get_context("fork")
        connection, child_end = context.Pipe(duplex=False)
        process = context.Process(target=_run_in_fork, args=(function, child_end), daemon=True)
        with child_end, warnings.catch_warnings():
            # Python 3.12 warns about locks that other threads may hold. The fork uses nothing that needs them.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                process.start()
            except OSError as error:
                connection.close()
                message = (
                    f"This process cannot be forked: {error}. It evaluates by itself, while learning waits. Set "
                    "evaluate_in_background=False to evaluate in this process from the start."
                )
                warnings.warn(DaftWarning(message, arguments=FORK_ARGUMENT), stacklevel=3)
                return
        self._process, self._connection = process, connection
        atexit.register(self.cancel)  # multiprocessing would send a signal that the fork ignores, and wait
        self._poll = select.poll()  # Connection.poll() makes a new object in every call, which slows each step
        self._poll.register(self._connection, select.POLLIN)

    @property
    def ended(self) -> bool:
        """Whether the function has returned or raised, and nothing is left of its process."""
        return self._outcome is not None

    def ready(self) -> bool:
        """Whether :meth:`result` returns at once."""
        return self.wait(0)

    def wait(self, seconds: float) -> bool:
        """Wait for the function, but not longer than this.

        :return: whether :meth:`result` returns at once
        """
        return self._outcome is not None or bool(self._poll.poll(1000 * seconds))

    def result(self) -> T:
        """Wait for the function and return its result.

        :raises Exception: the function raised it. If it was raised in a fork, its cause is the traceback there
        """
        if self._outcome is None:
            self._outcome = self._receive()
            self._instead = None  # it may hold a copy of the policy
        value, error = self._outcome
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def _receive(self) -> tuple[T | None, BaseException | None]:
        """Wait for the value that the function returned, or the error that it raised."""
        try:
            value, error, trace, self.seconds = self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self._release()
            self.killed = True
            cause = " (the system may have run out of memory)" if code == -signal.SIGKILL else ""
            message = (
                f"The process that evaluates ended with exit code {code}{cause}. The process that learns evaluates "
                "from now on. evaluate_in_background=False does so from the start."
            )
            warnings.warn(DaftWarning(message, arguments=FORK_ARGUMENT), stacklevel=3)
            assert self._instead is not None
            return self._instead(), None
        self._release()
        if error is not None:
            error.__cause__ = RemoteError(trace)
        return value, error

    def cancel(self) -> None:
        """End the fork if it still runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, CANCEL)
            self._process.join(TERMINATION_SECONDS)
            self._process.kill()  # in case it ignored the first signal
            self._release()

    def _release(self) -> None:
        """Wait until the fork has ended, and close all file descriptors that belong to it."""
        atexit.unregister(self.cancel)
        self._process.join()
        self._process.close()
        self._connection.close()
        self._process = None


def _run_in_fork(function: Callable[[], Any], connection: Connection) -> None:
    """Call the function and send what it returns or raises, and how many seconds it took."""
    for number in (*SIGNALS, *OF_SCHEDULERS):  # may reach all processes of a job; the parent ends the fork
        signal.signal(number, signal.SIG_IGN)
    signal.signal(CANCEL, lambda *_: sys.exit(1))  # raises an exception, so that unfinished files are removed
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.nice(NICENESS)
    started = time.perf_counter()
    value, error, trace = None, None, ""
    try:
        value = function()
    except Exception as raised:
        error, trace = _picklable(raised), traceback.format_exc()
    with suppress(BrokenPipeError):
        connection.send((value, error, trace, time.perf_counter() - started))


def _picklable(error: Exception) -> Exception:
    """The error, or one that says the same: not every exception can be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # its own constructor may raise anything
        return WorkerError(f"{type(error).__name__}: {error}")
    return error


def _exit_with_parent() -> None:
    """Exit as soon as the parent has ended. A parent that is killed cannot end its fork."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
