"""Programs that are started to be killed, and the processes that they leave behind. For Linux: it looks into /proc."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["Process", "members", "workers"]

PATIENCE = 300.0
"""Seconds after which a program is taken to hang."""
GRACE = 15.0
"""Seconds after the end of a program in which its other processes may end. Workers of a grid may take eleven."""
LOOK = 0.05
"""Seconds between two looks."""


class Process:
    """A program that has been started, in a session of its own and with a TMPDIR of its own.

    :param program: ``transfer``, ``pretrain`` or ``benchmark``
    :param log: a file for what it prints
    :param prepare: called in a fork of this process, which has imported the packages already. ``None`` starts a new
        interpreter, as joblib's workers need
    """

    def __init__(
        self, program: str, arguments: list[str], log: Path, prepare: Callable[[], None] | None = lambda: None
    ) -> None:
        self.temporary = log.with_suffix(".tmp")
        self.temporary.mkdir(parents=True, exist_ok=True)
        self._child: multiprocessing.process.BaseProcess | subprocess.Popen[bytes]
        if prepare is None:
            command = [sys.executable, "-m", f"daft_rl.{program}", *arguments]
            environment = os.environ | {"TMPDIR": str(self.temporary)}
            with log.open("ab") as file:
                self._child = subprocess.Popen(
                    command, stdout=file, stderr=file, env=environment, start_new_session=True
                )
        else:
            context = multiprocessing.get_context("fork")
            self._child = context.Process(target=_become, args=(program, arguments, log, self.temporary, prepare))
            self._child.start()
        assert self._child.pid is not None
        self.pid = self._child.pid

    def ended(self, seconds: float) -> bool:
        """Wait for the end so many seconds.

        :return: whether it has come
        """
        if isinstance(self._child, subprocess.Popen):
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(seconds)
            return self._child.returncode is not None
        self._child.join(seconds)
        return self._child.exitcode is not None

    def send(self, number: signal.Signals) -> None:
        """Send a signal. Ctrl-C reaches all processes of a terminal."""
        with suppress(ProcessLookupError):
            if number == signal.SIGINT:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    def wait(self) -> tuple[int, list[str]]:
        """
        :return: the exit code, and the command lines of processes that are left long after the end. They are killed
        :raises TimeoutError: there is no end
        """
        hangs = not self.ended(PATIENCE)
        deadline = time.monotonic() + GRACE
        while not hangs and members(self.pid) and time.monotonic() < deadline:
            time.sleep(LOOK)
        left = members(self.pid)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if hangs:
            raise TimeoutError(f"A program has not ended after {PATIENCE} seconds: {left}")
        code = self._child.returncode if isinstance(self._child, subprocess.Popen) else self._child.exitcode
        assert code is not None
        return code, list(left.values())


def _become(program: str, arguments: list[str], log: Path, temporary: Path, prepare: Callable[[], None]) -> None:
    """Be ``python -m daft_rl.PROGRAM ARGUMENTS``."""
    os.setsid()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    sys.argv = [f"daft_rl.{program}", *arguments]
    prepare()
    runpy.run_module(f"daft_rl.{program}", run_name="__main__", alter_sys=True)


def members(session: int) -> dict[int, str]:
    """The processes of a session that live: id -> command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, its_session = (folder / "stat").read_text().rpartition(") ")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                found[int(folder.name)] = command.strip()
    return found


def workers(session: int) -> list[int]:
    """The ids of joblib's workers in a session."""
    return sorted(pid for pid, command in members(session).items() if "loky.backend.popen_loky" in command)
