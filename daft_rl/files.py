"""Files that are written whole or not at all, whatever happens meanwhile: a kill, a full disk, a power cut."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

__all__ = ["UNFINISHED", "replacing", "write_json", "write_text"]

UNFINISHED = ".unfinished-"
"""How names begin of files and folders that are being written."""


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of ``path`` at the end of the block. After an error ``path`` is as it was.

    :param path: its folder is made if it does not exist
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # several processes, maybe on several machines, may write the same file
    with NamedTemporaryFile(dir=path.parent, prefix=f"{UNFINISHED}{path.name}.", delete=False) as unfinished:
        try:
            yield unfinished  # type: ignore[misc]
            unfinished.flush()
            os.fsync(unfinished.fileno())  # or the name may reach the disk before the content
            Path(unfinished.name).chmod(0o644)
            Path(unfinished.name).replace(path)
        except BaseException:
            Path(unfinished.name).unlink(missing_ok=True)
            raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(data, indent=1) + "\n")
