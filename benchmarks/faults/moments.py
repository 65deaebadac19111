"""Moments at which a kill hurts most: a process kills itself while it writes a file, or as it forks an evaluation."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daft_rl.run.background import BackgroundCall

__all__ = ["PHASES", "WRITING", "Moment"]

FILES = {
    "checkpoint": r"\d{12}\.zip",
    "replay": r"\d{12}-\d{12}\.zip",
    "results": r"(results|card)\.json",
    "archive": r"(final|agent)\.zip",
    "best": r"best\.zip",
    "settings": r"config\.yaml",
    "identity": r"run\.json",
    "cell": r"cell\.json",
    "zero_shot": r"[0-9a-f]+\.json",
}
"""Names of files that are written whole or not at all."""
WRITING = ("half", "whole", "renamed")
"""Half of the content is on the disk; the content is there, under another name; everything is there."""
FORK = "fork"
PHASES = {FORK: ("parent", "child")}
"""Who is killed as an evaluation is forked."""


class Moment:
    """A moment of a run.

    :param file: one of :data:`FILES`, or ``fork``
    :param phase: one of :data:`WRITING`, or of :data:`PHASES`
    :param count: at which of several such moments
    :param number: the signal
    """

    def __init__(self, file: str, phase: str, count: int, number: signal.Signals) -> None:
        self.file, self.phase, self.count, self.number = file, phase, count, number
        self._seen = 0

    def __str__(self) -> str:
        return f"{self.file} {self.phase} {self.count}"

    def arm(self, note: Path) -> None:
        """Let this process kill itself at that moment.

        :param note: a file that it makes before
        """
        self._note = note
        if self.file == FORK:
            _wrap(BackgroundCall, "_start_fork", after=self._at_fork)
        elif self.phase == "renamed":
            _wrap(Path, "replace", after=self._at_file)
        else:
            _wrap(Path, "replace", before=self._at_file)

    def _is_now(self) -> bool:
        self._seen += 1
        return self._seen == self.count

    def _at_file(self, source: Path, target: Any) -> None:
        if not re.fullmatch(FILES[self.file], Path(target).name) or not self._is_now():
            return
        if self.phase == "half" and self.number == signal.SIGKILL:  # as if it came during the writing
            os.truncate(source, source.stat().st_size // 2)
        self._kill(os.getpid())

    def _kill(self, pid: int) -> None:
        self._note.touch()
        os.kill(pid, self.number)

    def _at_fork(self, call: Any, *_: Any) -> None:
        if call._process is not None and self._is_now():
            self._kill(os.getpid() if self.phase == "parent" else call._process.pid)


def _wrap(kind: type, name: str, before: Callable[..., None] | None = None, after: Any = None) -> None:
    """Call a function before or after a method, with its arguments."""
    method = getattr(kind, name)

    def wrapped(*arguments: Any) -> Any:
        if before is not None:
            before(*arguments)
        result = method(*arguments)
        if after is not None:
            after(*arguments)
        return result

    setattr(kind, name, wrapped)
