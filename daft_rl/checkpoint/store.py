"""The folder of a run's checkpoints."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer

from daft_rl.checkpoint.file import read_state, write_state
from daft_rl.checkpoint.replay_buffer import BufferParts
from daft_rl.errors import CheckpointError, DaftWarning
from daft_rl.files import UNFINISHED, delete_files

__all__ = ["CheckpointStore"]

DIGITS = 12
"""Of the step in a checkpoint's name."""


class CheckpointStore:
    """Writes checkpoints, ``STEP.zip``, keeps the newest, and finds the newest that is whole.

    :param folder: of the checkpoints; it is made when the first one is written
    :param keep: how many to keep
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.parts = BufferParts(folder / "replay")

    def steps(self) -> list[int]:
        """The steps at which there are checkpoints, the newest first."""
        names = (path.stem for path in self.folder.glob("*.zip"))
        return sorted((int(name) for name in names if len(name) == DIGITS and name.isdecimal()), reverse=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"{step:0{DIGITS}d}.zip"

    def can_keep(self, model: BaseAlgorithm) -> bool:
        """Whether a checkpoint can keep the replay buffer of a model, if it has one."""
        buffer = _buffer_of(model)
        return buffer is None or self.parts.can_keep(buffer)

    def write(self, model: BaseAlgorithm, state: dict[str, Any]) -> None:
        """Write a checkpoint, with what its replay buffer lacks on disk, and delete the oldest.

        :raises OSError: the disk is full, or nothing can be written there
        """
        buffer = _buffer_of(model)
        rows = model.num_timesteps // model.n_envs
        kept = None if buffer is None else self.parts.write(buffer, rows) | {"size": buffer.buffer_size}
        write_state(self._path(model.num_timesteps), state | {"buffer": kept})
        steps = self.steps()
        for step in steps[self.keep :]:
            self._path(step).unlink(missing_ok=True)
        if buffer is not None:
            oldest = min(steps[: self.keep]) // model.n_envs
            self.parts.prune(oldest - buffer.buffer_size)

    def read(self) -> dict[str, Any] | None:
        """The newest checkpoint that is whole; ``None`` if there is none. A damaged one is skipped with a warning."""
        for leftover in self.folder.glob(f"**/{UNFINISHED}*"):
            leftover.unlink(missing_ok=True)
        for step in self.steps():
            try:
                return self._read(step)
            except CheckpointError as error:
                warnings.warn(DaftWarning(f"A checkpoint is skipped: {error}"), stacklevel=2)
                self._path(step).unlink(missing_ok=True)
        return None

    def _read(self, step: int) -> dict[str, Any]:
        state = read_state(self._path(step))
        if not isinstance(state, dict) or "buffer" not in state:
            raise CheckpointError(f"{self._path(step)} is no checkpoint of daft_rl.")
        if (buffer := state["buffer"]) is not None:
            self.parts.check(buffer["rows"], buffer["size"])
            self.parts.forget(buffer["rows"])
        return state

    def load_buffer(self, model: BaseAlgorithm, state: dict[str, Any]) -> None:
        """Fill the replay buffer of a model, if it has one."""
        buffer = _buffer_of(model)
        if buffer is not None:
            self.parts.load(buffer, state["buffer"])

    def clear(self) -> None:
        """Delete all checkpoints. What else lies in the folder stays."""
        delete_files(self.parts.folder, "*-*.zip", f"{UNFINISHED}*")
        for step in self.steps():
            self._path(step).unlink(missing_ok=True)
        delete_files(self.folder, f"{UNFINISHED}*")


def _buffer_of(model: BaseAlgorithm) -> ReplayBuffer | None:
    return getattr(model, "replay_buffer", None)
