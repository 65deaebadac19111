"""What a run says while it goes on, and standard outputs that cannot end it: closed ones, pipes that nobody reads,
terminals that are gone."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["keep_outputs", "nothing_twice", "say", "tell"]

_SAID: ContextVar[set[str] | None] = ContextVar("said", default=None)
"""What was said inside of :func:`nothing_twice`."""


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


def say(what: str) -> None:
    """Say on the standard error what a user has to know, once inside of :func:`nothing_twice`."""
    if _is_new(what):
        print(what, file=sys.stderr, flush=True)


@contextmanager
def nothing_twice() -> Iterator[None]:
    """Inside, :func:`say` and warnings repeat nothing: the arms of a race load and adapt one source each."""
    show, token = warnings.showwarning, _SAID.set(set())

    def show_once(message: Warning | str, *rest: Any, **more: Any) -> None:
        if _is_new(str(message)):
            show(message, *rest, **more)

    warnings.showwarning = show_once
    try:
        yield
    finally:
        warnings.showwarning = show
        _SAID.reset(token)


def _is_new(what: str) -> bool:
    said = _SAID.get()
    if said is None:
        return True
    new = what not in said
    said.add(what)
    return new


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
