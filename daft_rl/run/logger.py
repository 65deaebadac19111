"""The logger of a run: it writes what Stable-Baselines3 logs, but no more points than a plot can show."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from stable_baselines3.common.logger import KVWriter, Logger
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from daft_rl.run.names import EVENT_FILES

__all__ = ["ScalarFile", "SparseLogger", "interval"]

MOST_POINTS = 1000
"""Points of a scalar if the interval is ``auto``. A plot cannot show more."""


class ScalarFile(KVWriter):
    """Writes scalars to a file that TensorBoard reads.

    TensorBoard's own writer has a thread. On a full disk the thread dies with a traceback, and a fork of the process
    may copy a lock that it holds. This one writes at once, all scalars of a step as one event.

    :param folder: where the file is made
    :raises OSError: the disk is full, or nothing can be written there
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        who = f"{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((folder / EVENT_FILES.replace("*", who)).open("wb"))  # type: ignore[no-untyped-call]
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def _add(self, event: Any) -> None:
        self._records.write(event.SerializeToString())  # type: ignore[no-untyped-call]
        self._records.flush()  # type: ignore[no-untyped-call]

    def write(self, key_values: dict[str, Any], key_excluded: Mapping[str, tuple[str, ...]], step: int = 0) -> None:
        """Write the numbers; see ``KVWriter``."""
        values = [
            Summary.Value(tag=name, simple_value=float(value))
            for name, value in sorted(key_values.items())
            if "tensorboard" not in key_excluded[name] and isinstance(value, bool | int | float | np.number)
        ]
        if values:
            self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Close the file."""
        self._records.close()  # type: ignore[no-untyped-call]


class SparseLogger(Logger):
    """Writes no more than one point of each scalar in an interval of steps: the first.

    The others are dropped, as if they had been written: what learning reads from its logger does not depend on the
    interval.

    :param folder: where the files are
    :param output_formats: what writes them
    :param every: steps of an interval
    :param axis: the step at which a step of the model is shown
    """

    def __init__(
        self,
        folder: str,
        output_formats: list[KVWriter],
        every: int,
        axis: Callable[[int], int] = lambda step: step,
    ) -> None:
        super().__init__(folder, output_formats)
        self.every, self.axis = every, axis
        self._next: dict[str, int] = {}

    def dump(self, step: int = 0) -> None:
        """Write of what was recorded what is due, and drop the rest. Where nothing is due, nothing is written."""
        step = self.axis(step)
        for name in list(self.name_to_value):
            if step >= self._next.get(name, 0):
                self._next[name] = step - step % self.every + self.every
            else:
                for recorded in (self.name_to_value, self.name_to_count, self.name_to_excluded):
                    recorded.pop(name, None)
        if self.name_to_value:
            super().dump(step)

    def state_dict(self) -> dict[str, int]:
        """The step from which each scalar is due."""
        return dict(self._next)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from :meth:`state_dict`."""
        self._next = dict(state)


def interval(every: Literal["auto"] | int, total_timesteps: int) -> int:
    """Steps between two points.

    :param every: a number of steps; ``auto`` gives at most :data:`MOST_POINTS` points
    :param total_timesteps: of the run
    """
    return -(-total_timesteps // MOST_POINTS) if every == "auto" else every
