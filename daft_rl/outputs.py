"""Standard outputs that cannot end a run: closed ones, pipes that nobody reads, terminals that are gone."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

__all__ = ["keep_outputs", "tell"]


class _Patient(io.FileIO):
    """A file that drops what nobody takes any more."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def tell(what: str, wanted: bool) -> None:
    """Say on the standard error what a run does now.

    :param wanted: whether anybody looks: the setting ``progress_bar``
    """
    if wanted:
        print(what, file=sys.stderr, flush=True)


def keep_outputs() -> None:
    """Let prints succeed whatever becomes of the standard outputs. Streams that somebody has replaced stay."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, f"__{name}__") is None:  # or the next file that is opened would take its number
            os.open(os.devnull, os.O_RDWR)
        if number and getattr(sys, name) is getattr(sys, f"__{name}__"):
            setattr(sys, name, _patient_stream(number, getattr(sys, name)))


def _patient_stream(number: int, before: Any) -> io.TextIOWrapper:
    """
    :param number: of the file
    :param before: the stream that is replaced; ``None`` if the file was closed
    """
    if before is not None:
        before.flush()
    buffer = io.BufferedWriter(_Patient(number, "w", closefd=False))
    encoding = "utf-8" if before is None else before.encoding
    return io.TextIOWrapper(buffer, encoding, errors="backslashreplace", line_buffering=True)
