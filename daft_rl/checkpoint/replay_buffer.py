"""A replay buffer on disk, in parts: each checkpoint writes the rows that were added since the one before.

A row is one step of all environments. Rows are numbered from the beginning of learning. A part, whose name tells its
rows, never changes, and serves all later checkpoints. Nearly every next observation is the observation of the next row:
only the others are written, which halves the size.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer

from daft_rl.checkpoint.file import read_state, write_state
from daft_rl.errors import CheckpointError

__all__ = ["BufferParts"]

FIELDS = ("actions", "rewards", "dones", "timeouts")
EPISODES = ("ep_start", "ep_length", "_current_ep_start")
"""Where the episodes of hindsight experience replay are. The end of an episode changes rows that are written already,
so that each checkpoint has all of it: eight bytes per step."""


class BufferParts:
    """The parts of one replay buffer.

    :param folder: of the parts
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _parts(self) -> list[tuple[int, int, Path]]:
        """First row, row after the last, and file of each part, in order."""
        found = []
        for path in self.folder.glob("*-*.zip"):
            first, _, last = path.stem.partition("-")
            if first.isdecimal() and last.isdecimal():
                found.append((int(first), int(last), path))
        return sorted(found)

    def can_keep(self, buffer: ReplayBuffer) -> bool:
        """Whether all that a buffer holds can be written."""
        return not (isinstance(buffer, HerReplayBuffer) and buffer.copy_info_dict)

    def write(self, buffer: ReplayBuffer, rows: int) -> dict[str, Any]:
        """Write what was added since the last call.

        :param rows: how many rows have been added since the beginning of learning
        :return: what :meth:`load` needs beside the parts
        :raises CheckpointError: a buffer that keeps what no checkpoint can, such as infos
        """
        if not self.can_keep(buffer) or rows % buffer.buffer_size != buffer.pos:
            raise CheckpointError(f"A {type(buffer).__name__} cannot be kept in checkpoints.")
        oldest = max(0, rows - buffer.buffer_size)
        start = max([oldest, *(last for _, last, _ in self._parts() if last <= rows)])
        if start < rows:
            write_state(self.folder / f"{start:012d}-{rows:012d}.zip", _read_rows(buffer, start, rows))
        following = [array[buffer.pos].copy() for array in _observations(buffer)]
        return {"rows": rows, "next": following, "episodes": _read_episodes(buffer)}

    def load(self, buffer: ReplayBuffer, state: dict[str, Any]) -> None:
        """Fill a buffer with the rows that it had at a checkpoint.

        :raises CheckpointError: a part is missing or damaged
        """
        rows = state["rows"]
        buffer.pos, buffer.full = rows % buffer.buffer_size, rows >= buffer.buffer_size
        for first, last, path in self._needed(rows, buffer.buffer_size):
            _write_rows(buffer, read_state(path), first, last, path)
        for array, row in zip(_observations(buffer), state["next"], strict=True):
            array[buffer.pos] = row
        for name in EPISODES if isinstance(buffer, HerReplayBuffer) else ():
            array, values = getattr(buffer, name), state["episodes"][name]
            array[: len(values)] = values

    def check(self, rows: int, size: int) -> None:
        """Whether all rows of a checkpoint can be read.

        :raises CheckpointError: a part is missing or damaged
        """
        for _, _, path in self._needed(rows, size):
            read_state(path)

    def _needed(self, rows: int, size: int) -> Iterator[tuple[int, int, Path]]:
        covered = oldest = max(0, rows - size)
        for first, last, path in self._parts():
            if last <= oldest or last > rows:
                continue
            if first > covered:
                break
            covered = last
            yield first, last, path
        if covered < rows:
            raise CheckpointError(f"{self.folder}: rows from {covered} on of {rows} are missing.")

    def prune(self, oldest: int) -> None:
        """Delete the parts that hold only rows before ``oldest``."""
        for _, last, path in self._parts():
            if last <= oldest:
                path.unlink(missing_ok=True)

    def forget(self, rows: int) -> None:
        """Delete the parts that were written after ``rows`` rows."""
        for _, last, path in self._parts():
            if last > rows:
                path.unlink(missing_ok=True)


def _observations(buffer: ReplayBuffer) -> list[NDArray[Any]]:
    return _arrays(buffer.observations)


def _arrays(observations: Any) -> list[NDArray[Any]]:
    """The arrays of dictionary observations in the order of their keys; or the only one."""
    return [observations[key] for key in sorted(observations)] if isinstance(observations, dict) else [observations]


def _differs(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """For each row and environment, whether any bit differs; shape ``(rows, num_envs)``."""
    count = (*one.shape[:2], -1)
    as_bytes = [np.ascontiguousarray(array).reshape(count).view(np.uint8) for array in (one, other)]
    return (as_bytes[0] != as_bytes[1]).any(axis=2)


def _read_episodes(buffer: ReplayBuffer) -> dict[str, NDArray[Any]]:
    if not isinstance(buffer, HerReplayBuffer):
        return {}
    filled = {name: buffer.size() for name in EPISODES} | {"_current_ep_start": buffer.n_envs}
    return {name: getattr(buffer, name)[: filled[name]].astype(np.int32) for name in EPISODES}


def _read_rows(buffer: ReplayBuffer, first: int, last: int) -> dict[str, Any]:
    rows = np.arange(first, last) % buffer.buffer_size
    state: dict[str, Any] = {name: getattr(buffer, name)[rows] for name in FIELDS}
    state["observations"] = [array[rows] for array in _observations(buffer)]
    if buffer.optimize_memory_usage:
        return state
    state["next"] = []
    for now, later in zip(state["observations"], _arrays(buffer.next_observations), strict=True):
        following = later[rows]
        other = np.ones(following.shape[:2], dtype=bool)
        other[:-1] = _differs(following[:-1], now[1:])
        state["next"].append({"where": np.flatnonzero(other), "what": following[other]})
    return state


def _write_rows(buffer: ReplayBuffer, state: dict[str, Any], first: int, last: int, path: Path) -> None:
    rows = np.arange(first, last) % buffer.buffer_size
    try:
        for name in FIELDS:
            getattr(buffer, name)[rows] = state[name]
        for array, values in zip(_observations(buffer), state["observations"], strict=True):
            array[rows] = values
        if buffer.optimize_memory_usage:
            return
        for array, values, others in zip(
            _arrays(buffer.next_observations), state["observations"], state["next"], strict=True
        ):
            following = np.concatenate([values[1:], values[:1]])
            following.reshape(-1, *following.shape[2:])[others["where"]] = others["what"]
            array[rows] = following
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path} does not fit this run: {type(error).__name__}: {error}") from error
