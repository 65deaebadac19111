"""Files that are written whole or not at all, whatever happens meanwhile; and small files of others, read with care."""

from __future__ import annotations

import errno
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

import yaml

from daft_rl.errors import ConfigError

__all__ = [
    *("UNFINISHED", "delete_files", "read_mapping", "refused_by_disk", "replacing", "sync", "write_json", "write_text"),
]

BY_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
"""Errors that come from where a file is, not from what is done with it."""
UNFINISHED = ".unfinished-"
"""How names begin of files and folders that are being written."""
MAX_YAML_BYTES = 1024**2
"""Usual are 3 KB."""
MAX_YAML_DEPTH = 50
"""Brackets inside of brackets. PyYAML takes minutes for thousands."""


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
            Path(unfinished.name).chmod(_usual_mode())
            Path(unfinished.name).replace(path)
        except BaseException:
            Path(unfinished.name).unlink(missing_ok=True)
            raise
    sync(path.parent)


def _usual_mode() -> int:
    """The permissions of a new file; those of a temporary one are narrower."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk. Only POSIX systems can do so for any path."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete_files(folder: Path, *patterns: str) -> None:
    """Delete the files of some names, and the folder if nothing else is in it. Files of others may lie there too."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            with suppress(OSError):  # it is deleted already, or a folder
                path.unlink()
    with suppress(OSError):
        folder.rmdir()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Write a file whole or not at all. A number that is NaN or infinite becomes ``null``: JSON has no such numbers."""
    write_text(path, json.dumps(_strict(data), indent=1, allow_nan=False) + "\n")


def _strict(data: Any) -> Any:
    """Plain data without NaN and infinite numbers."""
    if isinstance(data, dict):
        return {key: _strict(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_strict(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def refused_by_disk(error: BaseException | None) -> OSError | None:
    """Of an error and what it came from, the one that tells of a disk that is full, broken, or not to be written to."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in BY_DISK:
            return error
        error = error.__cause__ or error.__context__
    return None


class _UniqueKeys(yaml.SafeLoader):
    """YAML whose mappings have each name once. PyYAML takes the last one of several, and drops the others."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """
        :raises yaml.constructor.ConstructorError: a name is there twice
        """
        names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
        twice = next((name for name, times in Counter(names).items() if times > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"'{twice}' is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file of names with values. Aliases, by which a small file could stand for a huge one, are refused, and so
    are names that are there twice.

    :raises FileNotFoundError: there is no such file
    :raises ConfigError: the file is no such thing
    """
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise ConfigError(f"{path} has more than {MAX_YAML_BYTES} bytes, and is not read.")
        text = path.read_text("utf-8")
        steps = [(char in "[{") - (char in "]}") for char in text if char in "[]{}"]
        if max(accumulate(steps), default=0) > MAX_YAML_DEPTH:
            raise ConfigError(f"{path} has more than {MAX_YAML_DEPTH} brackets inside of brackets, and is not read.")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ConfigError(f"{path} has aliases, which daft_rl does not write.")
        found = yaml.load(text, _UniqueKeys)  # a loader of safe data
    except (FileNotFoundError, ConfigError):
        raise
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ConfigError(f"{path} holds no names with values.")
    return found
