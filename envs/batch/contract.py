"""What an environment has to return, and errors that name the one which does something else.

This module imports neither PyTorch nor SB3: workers use it too.
"""

from __future__ import annotations

import math
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daft_rl.errors import FaultyEnvironmentError

__all__ = ["ENVIRONMENT_ERRORS", "describe_failure", "environment_error", "store_observation", "time_limit", "too_slow"]


class _NoAnswerError(BaseException):
    """Raised inside of an environment that takes too long. No ``except Exception`` in there catches it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s")
        self.seconds = seconds


ENVIRONMENT_ERRORS = (Exception, SystemExit, _NoAnswerError)
"""What comes out of an environment. An interrupt is the user's."""

RETURNED = {
    "reset": "an observation and a dictionary",
    "step": "an observation, a number as reward, two Booleans (terminated, truncated) and a dictionary",
}
"""Method of an environment -> what it has to return."""

OLD_API = {
    "expected 5, got 4": "; four values are step() of old Gym, return terminated and truncated in place of done",
    "unexpected keyword argument 'seed'": "; Gymnasium calls reset(seed=..., options=...), take both",
    "unexpected keyword argument 'options'": "; Gymnasium calls reset(seed=..., options=...), take both",
}
"""Part of a cause -> what to do about an environment that was written for another library."""

READERS = ("contract.py", "dummy_vec_env.py", "worker_process.py")
"""Files that read what environments return."""

LONGEST_CAUSE = 300
"""Characters of a cause in a message. Some hold whole arrays."""


def describe_failure(method: str, error: BaseException) -> str:
    """What an environment did wrong, in one line.

    :param method: of the environment, such as ``step``
    :param error: what came out of it, with its traceback
    """
    cause = f"{type(error).__name__}: {' '.join(str(error).split())[:LONGEST_CAUSE]}".rstrip(": ")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/numpy/" not in frame.filename]
    file, line = (Path(frames[-1].filename).name, frames[-1].lineno) if frames else ("", 0)
    remedy = next((remedy for part, remedy in OLD_API.items() if part in cause), "")
    if method in RETURNED and file in READERS:  # the environment itself raised nothing
        return f"returned something else from {method}() than {RETURNED[method]}: {cause}{remedy}"
    return f"failed in {method}(): {cause} ({file}, line {line}){remedy}"


def environment_error(index: int | None, method: str, error: BaseException) -> FaultyEnvironmentError:
    """An error that names the environment. Raise it from ``error``.

    :param index: of the environment in its batch; ``None`` if it is not known
    :param method: of the environment, such as ``step``
    """
    who = "An environment" if index is None else f"Environment {index}"
    if isinstance(error, _NoAnswerError):
        return FaultyEnvironmentError(too_slow(who, error.seconds), index=index, arguments=("step_timeout",))
    return FaultyEnvironmentError(f"{who} {describe_failure(method, error)}.", index=index)


def store_observation(buffers: Mapping[Any, NDArray[Any]], i: int, observation: Any) -> None:
    """Copy an observation into row ``i`` of the batch's arrays.

    :param buffers: by key; the key ``None`` is an observation that is no dictionary
    :raises ValueError: a number of entries that NumPy would repeat to fill the row
    """
    for key, buffer in buffers.items():
        value = observation if key is None else observation[key]
        if getattr(value, "shape", ()) != buffer.shape[1:] and np.size(value) != math.prod(buffer.shape[1:]):
            raise ValueError(f"an observation of shape {np.shape(value)}, expected {buffer.shape[1:]}")
        buffer[i] = value


def too_slow(who: str, seconds: float) -> str:
    """The message about an environment that hangs."""
    return f"{who} has not answered within {seconds:g} s, which step_timeout allows for a step or a reset."


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Interrupt what takes longer.

    A signal does it, which reaches the main thread only, and only where Python runs or waits: a loop inside of a
    simulator's own machine code is not interrupted.

    :param seconds: ``None`` is no limit
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise _NoAnswerError(seconds)

    handler = signal.signal(signal.SIGALRM, interrupt)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
