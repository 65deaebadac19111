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
        self._path = self.folder / LOCK_FILE
        if self.folder in _held:
            raise self._refusal("this process")
        self._file = self._path.open("a+")
        if not self._acquire():
            self._file.seek(0)
            owner = self._file.read().strip()
            self._file.close()
            raise self._refusal(owner or "another process")
        with suppress(OSError):  # a full disk still locks
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            self._file.flush()
        _held.add(self.folder)

    def _acquire(self) -> bool:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.holds():
                    return True
                self._file.close()  # who had the lock has deleted the file, and others will lock a new one
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("a+")
            except (BlockingIOError, PermissionError):
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.1)

    def _refusal(self, owner: str) -> ConfigError:
        return ConfigError(
            f"output_dir={self.folder}: {owner} runs there. Wait for it, or name another folder.",
            arguments=("output_dir",),
        )

    def holds(self) -> bool:
        """Whether the folder is still the one that was locked: it may have been moved or deleted, and made again."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False
        except OSError:  # a network that fails for a moment tells nothing
            return True

    def delete(self) -> None:
        """Delete the file, where no run is left that others could wait for."""
        self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let others have the folder. A second call does nothing."""
        _held.discard(self.folder)
        with suppress(OSError):  # the file is closed nevertheless
            self._file.close()
