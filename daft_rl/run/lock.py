"""A lock on a folder: one run at a time."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from daft_rl.errors import ConfigError

__all__ = ["LOCK_FILE", "FolderLock"]

LOCK_FILE = "run.lock"
PATIENCE = 5.0
"""Seconds to wait for a process that is about to end."""
_held: set[Path] = set()
"""Folders that this process has locked: the system's locks do not keep a process from itself."""


class FolderLock:
    """Locks a folder until :meth:`release`, or until the process ends, however it ends.

    The system keeps the lock, also on network file systems, so that none is ever stale. The file tells who has it.

    :param folder: it exists
    :raises ConfigError: another run has the folder
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        path = self.folder / LOCK_FILE
        if self.folder in _held:
            raise self._refusal("this process")
        self._file = path.open("a+")
        if not self._acquire():
            self._file.seek(0)
            owner = self._file.read().strip()
            self._file.close()
            raise self._refusal(owner or "another process")
        _held.add(self.folder)
        with suppress(OSError):  # a full disk still locks
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            self._file.flush()

    def _acquire(self) -> bool:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except (BlockingIOError, PermissionError):
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.1)

    def _refusal(self, owner: str) -> ConfigError:
        return ConfigError(
            f"output_dir={self.folder}: {owner} runs there. Wait for it, or name another folder.",
            arguments=("output_dir",),
        )

    def delete(self) -> None:
        """Delete the file, where no run is left that others could wait for."""
        (self.folder / LOCK_FILE).unlink(missing_ok=True)

    def release(self) -> None:
        """Let others have the folder. A second call does nothing."""
        _held.discard(self.folder)
        with suppress(OSError):  # the file is closed nevertheless
            self._file.close()
