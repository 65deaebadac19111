"""The parent's view of a worker process: start, requests, replies, exit."""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Pipe
from typing import Any

from daft_rl.envs.batch.contract import too_slow
from daft_rl.envs.batch.worker_process import GRACE_SECONDS, NOBODY
from daft_rl.errors import RemoteError, WorkerError

__all__ = ["DeadWorkerError", "WorkerHandle", "hold_interrupts", "stop_workers"]

# Workers share the cores, so each needs one thread. Libraries read these once, when NumPy is imported.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# The worker gets the parent's path first, so that it can import what the parent can.
PROGRAM = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from daft_rl.envs.batch.worker_process import run_worker; run_worker(*map(int, sys.argv[1:3]))"
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


def start_process(*descriptors: int) -> subprocess.Popen[bytes]:
    """Start a worker.

    :param descriptors: file descriptors of the worker's end of the connection, and of the memory for its note
    """
    path = (entry for entry in sys.path if isinstance(entry, str))
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, descriptors), *path],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **ONE_THREAD},
    )


def share_memory() -> int:
    """A file descriptor of four bytes that two processes can map."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("daft_rl")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, 4)
    return descriptor


class DeadWorkerError(WorkerError):
    """The process of a worker has ended."""


class WorkerHandle:
    """A worker process.

    :param rows: indices of its environments
    """

    def __init__(self, rows: range) -> None:
        self.rows = rows
        self.restarted = False
        """Whether it is the second process for these environments."""
        self._start()

    def _start(self) -> None:
        self.connection, worker_end = Pipe()
        memory = share_memory()
        try:
            self._note = mmap.mmap(memory, 4)
            with worker_end:  # closed here, so that the death of the worker is an end of file
                self.process = start_process(worker_end.fileno(), memory)
        finally:
            os.close(memory)

    def restart(self) -> None:
        """Start a new process in place of one that has ended. It has no environments yet."""
        self.restarted = True
        self.release()
        self.process.kill()  # in case it only closed its connection
        self.process.wait()
        with hold_interrupts():
            self._start()

    def release(self) -> None:
        """Close the connection, which ends the process."""
        self.connection.close()
        self._note.close()

    def send(self, request: bytes) -> None:
        """Send a request.

        :raises DeadWorkerError: the process is dead
        """
        try:
            self.connection.send_bytes(request)
        except ConnectionError:
            raise self.exit_error() from None

    def receive(self, timeout: float | None = None) -> Any:
        """Wait for the reply.

        :param timeout: seconds to wait; ``None`` waits for ever
        :return: the result; an ``AttributeError``, not raised, if an environment lacks an attribute
        :raises WorkerError: the process is dead (:class:`DeadWorkerError`) or too slow, or an environment raised
        """
        try:
            if timeout is not None and not self.connection.poll(timeout):
                raise WorkerError(too_slow(self.culprit(), timeout), index=self.current(), arguments=("step_timeout",))
            reply = self.connection.recv_bytes()
        except (EOFError, ConnectionError):
            raise self.exit_error() from None
        status, *rest = pickle.loads(reply)
        if status == "failed":
            current, summary, trace = rest
            index = None if current == NOBODY else self.rows[current]
            failed = f"The worker of {self.name()}" if index is None else f"Environment {index}"
            cause = RemoteError(f"In process {self.process.pid}:\n{trace.rstrip()}")
            raise WorkerError(f"{failed} {summary}.", index=index) from cause
        return AttributeError(rest[0]) if status == "missing" else rest[0]

    def current(self) -> int | None:
        """The environment at work, by its index in the batch; ``None`` if none is."""
        local = int.from_bytes(self._note[:4], sys.byteorder, signed=True)
        return self.rows[local] if 0 <= local < len(self.rows) else None

    def culprit(self) -> str:
        """The environment at work in words, or all of them."""
        index = self.current()
        return f"The worker of {self.name()}" if index is None else f"Environment {index}"

    def name(self) -> str:
        """Its environments in words, for messages."""
        first, last = self.rows[0], self.rows[-1]
        return f"environment {first}" if first == last else f"environments {first} to {last}"

    def exit_error(self) -> DeadWorkerError:
        """An error that says how the process ended."""
        index = self.current()
        try:
            code = self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return DeadWorkerError(
                f"The worker of {self.name()} closed its connection (process {self.process.pid}).", index=index
            )
        ending = f"ended with exit code {code}"
        if code < 0:
            names = {number.value: number.name for number in signal.Signals}
            ending = f"was killed by {names.get(-code, f'signal {-code}')}"
        work = "" if index is None else f" while environment {index} was at work"
        hint = ""
        if code == -signal.SIGKILL:
            hint = " The system does that when memory runs out: use fewer environments or workers."
        message = f"The worker of {self.name()} {ending}{work} (process {self.process.pid}).{hint}"
        return DeadWorkerError(message, index=index)


def stop_workers(workers: Sequence[WorkerHandle], owner: int) -> None:
    """Close the connections, which ends the workers, and kill those that do not end in time.

    :param owner: id of the process that started them. A fork of that process must not stop them
    """
    if os.getpid() != owner:
        return
    for worker in workers:
        worker.release()
    deadline = time.monotonic() + GRACE_SECONDS
    try:
        for worker in workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
    finally:  # also after a second Ctrl-C
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
