"""What ``torch.save`` wrote, read by ``torch.load(weights_only=True)`` after the sizes of everything have been checked.

Since PyTorch 1.6 a file of tensors is a zip. Before, it was a row of pickles with the numbers behind them, and it names
the size of each tensor before any number is there. Both are read from memory.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from daft_rl.archives.checks import check_directory, wrap_errors
from daft_rl.errors import AgentError

__all__ = ["read_tensors"]

MAX_DIRECTORY = 4 * 1024**2
"""Bytes of the table of contents of a zip of tensors."""
MAX_PICKLE = 4 * 1024**2
"""Bytes of the pickle that names the tensors; one byte of it can make an object of 64."""
MAX_TENSORS = 10_000
OLD_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""How files of PyTorch before 1.6 go on after the two bytes for pickle's protocol."""
MAX_OLD_PICKLES = 1024**2
"""Bytes of all pickles in a file of PyTorch before 1.6. They are read twice; SB3's take 2 to 10 KB."""
OLD_PICKLES = 5
"""Magic number, version, the system's properties, the tensors, the order of the numbers."""


def read_tensors(name: str, raw: bytes, path: Path) -> dict[str, Any]:
    """The dictionary that ``torch.save`` wrote; its leaves are tensors and numbers.

    :param name: of the member of the archive
    :param raw: its content
    :param path: of the archive, for messages
    :raises AgentError: damaged, hostile, or something other than such a dictionary
    """
    what = f"{path}: '{name}' is damaged, or holds something other than tensors"
    with wrap_errors(what, "Download or save the file again."):  # SB3's own loader reads no more
        read = _read_old if raw[2:].startswith(OLD_MAGIC) else _read_zip
        content = read(name, raw, path)
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise AgentError(f"{path}: '{name}' should hold a dictionary of tensors, got {type(content).__name__}.")
    if len(content) > MAX_TENSORS:
        raise AgentError(f"{path}: '{name}' holds {len(content)} entries, more than {MAX_TENSORS}.")
    return dict(content)


def _read_zip(name: str, raw: bytes, path: Path) -> Any:
    check_directory(io.BytesIO(raw), MAX_DIRECTORY)
    with zipfile.ZipFile(io.BytesIO(raw)) as inner:
        stored = [info for info in inner.infolist() if info.compress_type == zipfile.ZIP_STORED]
        # torch.save never compresses: a file that unpacks to more than its own size is a bomb
        if len(stored) != len(inner.infolist()) or sum(info.file_size for info in stored) > len(raw):
            raise AgentError(f"{path}: '{name}' is compressed, or its parts overlap; torch.save does neither.")
        if any(info.filename.endswith("data.pkl") and info.file_size > MAX_PICKLE for info in stored):
            raise _too_long(name, path, MAX_PICKLE)
    return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)


def _read_old(name: str, raw: bytes, path: Path) -> Any:
    """A file of PyTorch before 1.6."""
    stream = io.BytesIO(raw)
    for _ in range(OLD_PICKLES):
        for _ in pickletools.genops(stream):  # to the end of one pickle; executes nothing
            if stream.tell() > MAX_OLD_PICKLES:
                raise _too_long(name, path, MAX_OLD_PICKLES)
    storages: list[tuple[Any, int]] = []

    def on_cpu(storage: Any, location: str) -> Any:
        """PyTorch asks where to put each storage when it has reserved the memory, and not yet touched it."""
        storages.append((storage, storage.nbytes()))
        _check_claims(name, path, sum(size for _, size in storages), len(raw))
        return storage.fill_(0)  # the file may not have the numbers

    content = torch.load(io.BytesIO(raw), map_location=on_cpu, weights_only=True)
    # a tensor that claims more than its storage has makes PyTorch enlarge the storage
    _check_claims(name, path, sum(storage.nbytes() for storage, _ in storages), sum(size for _, size in storages))
    return content


def _check_claims(name: str, path: Path, claimed: int, there: int) -> None:
    if claimed > there:
        raise AgentError(f"{path}: '{name}' claims tensors of {claimed} bytes, more than the {there} it has.")


def _too_long(name: str, path: Path, limit: int) -> AgentError:
    return AgentError(f"{path}: the pickle in '{name}' has more than {limit} bytes.")
