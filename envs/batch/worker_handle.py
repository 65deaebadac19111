"""The parent's view of a worker process: start, requests, replies, exit."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Pipe
from typing import Any

from daft_rl.envs.batch.worker_process import GRACE_SECONDS
from daft_rl.errors import WorkerError

__all__ = ["WorkerHandle", "hold_interrupts", "stop_workers"]

# Workers share the cores, so each needs one thread. Libraries read these once, when NumPy is imported.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# The worker gets the parent's path first, so that it can import what the parent can.
PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from daft_rl.envs.batch.worker_process import run_worker; run_worker(int(sys.argv[1]))"
)


@contextmanager
def hold_interrupts() -> Iterator[None]:
    """Delay Ctrl-C, so that no process is lost between its start and its entry in a list.

    The process inherits the mask, so it ignores Ctrl-C from its first instruction on.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def start_process(descriptor: int) -> subprocess.Popen[bytes]:
    """Start a worker.

    :param descriptor: file descriptor of the worker's end of the connection
    """
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(descriptor), *(entry for entry in sys.path if isinstance(entry, str))],
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **ONE_THREAD},
    )


class WorkerHandle:
    """A worker process.

    :param rows: indices of its environments
    """

    def __init__(self, rows: range) -> None:
        self.rows = rows
        self.connection, worker_end = Pipe()
        with worker_end:  # closed here, so that the death of the worker is an end of file
            self.process = start_process(worker_end.fileno())

    def send(self, request: bytes) -> None:
        """Send a request.

        :raises WorkerError: the process is dead
        """
        try:
            self.connection.send_bytes(request)
        except ConnectionError:
            raise self.exit_error() from None

    def receive(self) -> Any:
        """Wait for the reply.

        :return: the result; an ``AttributeError``, not raised, if an environment lacks an attribute
        :raises WorkerError: the process is dead, or an environment raised
        """
        try:
            reply = self.connection.recv_bytes()
        except (EOFError, ConnectionError):
            raise self.exit_error() from None
        status, *rest = pickle.loads(reply)
        if status == "failed":
            current, summary, trace = rest
            failed = f"The worker of {self.name()}" if current is None else f"Environment {self.rows[current]}"
            raise WorkerError(f"{failed} failed: {summary}\nIn process {self.process.pid}:\n{trace.rstrip()}")
        return AttributeError(rest[0]) if status == "missing" else rest[0]

    def name(self) -> str:
        """Its environments in words, for messages."""
        first, last = self.rows[0], self.rows[-1]
        return f"environment {first}" if first == last else f"environments {first} to {last}"

    def exit_error(self) -> WorkerError:
        """An error that says how the process ended."""
        try:
            code = self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return WorkerError(f"The worker of {self.name()} closed its connection (process {self.process.pid}).")
        ending, hint = f"ended with exit code {code}", ""
        if code < 0:
            names = {number.value: number.name for number in signal.Signals}
            ending = f"was killed by {names.get(-code, f'signal {-code}')}"
        if code == -signal.SIGKILL:
            hint = " The system does that when memory runs out: use fewer environments or workers."
        return WorkerError(f"The worker of {self.name()} {ending} (process {self.process.pid}).{hint}")


def stop_workers(workers: Sequence[WorkerHandle], owner: int) -> None:
    """Close the connections, which ends the workers, and kill those that do not end in time.

    :param owner: id of the process that started them. A fork of that process must not stop them
    """
    if os.getpid() != owner:
        return
    for worker in workers:
        worker.connection.close()
    deadline = time.monotonic() + GRACE_SECONDS
    try:
        for worker in workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
    finally:  # also after a second Ctrl-C
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
