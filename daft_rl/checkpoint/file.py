"""A file of plain data, arrays and tensors. Reading it executes nothing, and takes no more memory than the file's size.

It is a zip without compression of two members. ``arrays`` holds the bytes of all arrays, one after the other.
``state.json`` holds everything else; an object of JSON is one of the tags below with its value. The zip has a checksum
of each member, and its directory at the end, so that a file that is cut or changed is recognized.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from daft_rl.errors import CheckpointError
from daft_rl.files import replacing

__all__ = ["read_state", "write_state"]

STATE, ARRAYS = "state.json", "arrays"
MAX_JSON_BYTES = 8 * 1024**2
"""Usual are 30 KB. Python's objects take forty times as much memory as the JSON of empty ones."""
MAX_DIMENSIONS = 16
KINDS = "biufc"
"""Kinds of NumPy's dtypes: Booleans and numbers."""


def _array_of(tensor: torch.Tensor) -> NDArray[Any]:
    """
    :raises CheckpointError: NumPy has no such numbers, such as those of bfloat16
    """
    try:
        return np.asarray(tensor.detach().cpu().numpy())
    except TypeError as error:
        raise CheckpointError(f"A checkpoint holds no tensors of {tensor.dtype}.") from error


class _Writer:
    """Turns a state into JSON, and collects its arrays."""

    def __init__(self) -> None:
        self.arrays: list[NDArray[Any]] = []
        self.offset = 0

    def encode(self, value: Any) -> Any:
        """
        :raises CheckpointError: something other than plain data, arrays and tensors
        """
        if isinstance(value, np.generic) and value.dtype.kind in KINDS:  # some are Python's numbers too
            return {"scalar": self._add(np.asarray(value))}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list | tuple):
            return [self.encode(item) for item in value]
        if isinstance(value, dict):
            return {"map": [[self.encode(key), self.encode(item)] for key, item in value.items()]}
        if isinstance(value, torch.Tensor):
            return {"tensor": self._add(_array_of(value))}
        if isinstance(value, np.ndarray) and value.dtype.kind in KINDS:
            return {"array": self._add(value)}
        raise CheckpointError(f"A checkpoint holds numbers, texts and arrays, no {type(value).__name__}.")

    def _add(self, array: NDArray[Any]) -> list[Any]:
        kept = np.asarray(array, order="C")
        place = [kept.dtype.str, list(kept.shape), self.offset]
        self.arrays.append(kept)
        self.offset += kept.nbytes
        return place


class _Reader:
    """Turns JSON and the bytes of arrays into a state."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.tags: dict[str, Callable[[Any], Any]] = {
            "map": self._map,
            "tensor": lambda place: torch.from_numpy(self._array(place)),
            "scalar": lambda place: self._array(place)[()],
            "array": self._array,
        }

    def decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if isinstance(value, dict):
            ((tag, item),) = value.items()
            return self.tags[tag](item)
        return value

    def _map(self, entries: list[Any]) -> dict[Any, Any]:
        return {self.decode(key): self.decode(item) for key, item in entries}

    def _array(self, place: list[Any]) -> NDArray[Any]:
        name, shape, offset = place
        dtype = np.dtype(str(name))
        if dtype.kind not in KINDS or len(shape) > MAX_DIMENSIONS or min([offset, *shape], default=0) < 0:
            raise ValueError(f"no array of numbers: {place}")
        count = math.prod(shape)
        if offset + count * dtype.itemsize > len(self.content):  # frombuffer would raise, after an overflow maybe not
            raise ValueError(f"an array outside of the file: {place}")
        return np.frombuffer(self.content, dtype, count, offset).reshape(shape).copy()


def write_state(path: Path, state: Any) -> None:
    """Write a state, whole or not at all.

    :param state: ``None``, Booleans, numbers, texts, lists, dictionaries, arrays and tensors. Tuples become lists
    :raises CheckpointError: the state holds something else, or too much of it
    :raises OSError: the disk is full, or nothing can be written there
    """
    writer = _Writer()
    text = json.dumps(writer.encode(state))
    if len(text) > MAX_JSON_BYTES:  # of ASCII; nobody could read it
        raise CheckpointError(f"{len(text)} bytes of JSON, more than {MAX_JSON_BYTES}.")
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(STATE, text)
        with archive.open(ARRAYS, "w", force_zip64=True) as member:
            for array in writer.arrays:
                member.write(array.reshape(-1).view(np.uint8).data)


def read_state(path: Path) -> Any:
    """Read what :func:`write_state` wrote.

    :raises CheckpointError: the file is missing, damaged, or no checkpoint
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            stored = all(info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1 for info in members)
            sizes = {info.filename: info.file_size for info in members}
            if len(members) != 2 or not stored or sum(sizes.values()) > path.stat().st_size:
                raise CheckpointError(f"{path} is no checkpoint of daft_rl.")
            if sizes[STATE] > MAX_JSON_BYTES:
                raise CheckpointError(f"{path}: {sizes[STATE]} bytes of JSON, more than {MAX_JSON_BYTES}.")
            return _Reader(archive.read(ARRAYS)).decode(json.loads(archive.read(STATE)))
    except CheckpointError:
        raise
    except Exception as error:  # zipfile, json and numpy raise a dozen kinds on damaged files
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}") from error
