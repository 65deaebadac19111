"""Stopping and going on from the command line: ``resume=RUN_FOLDER``, signals, and the exit code that says "go on"."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml

from daft_rl.errors import ConfigError, DaftError
from daft_rl.run.interruption import RESUMABLE, Interrupted, interruption
from daft_rl.settings import RunSettings

__all__ = ["command_of", "read_run", "resume_command", "stoppable"]

Settings = TypeVar("Settings", bound=RunSettings)
PREFIX = "resume="
MAX_BYTES = 1024**2
"""Of a ``config.yaml``; usual are 3 KB."""


def read_run(kind: type[Settings], folder: str | Path) -> Settings:
    """The settings of the run in a folder.

    :param kind: of the program that made the folder
    :raises DaftError: the folder holds no such run
    """
    path = Path(folder) / "config.yaml"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} is no settings of a run: more than {MAX_BYTES} bytes.")
        found = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"resume: {folder} holds no run: there is no {path.name}.") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not {"method", "env"} <= found.keys():
        raise ConfigError(f"{path} is no settings of a run.")
    return kind.from_dict(found | {"output_dir": str(folder), "overwrite": False})


def command_of(folder: Path) -> list[str]:
    """What was given on the command line of the run in a folder."""
    with suppress(OSError, ValueError, AttributeError, TypeError):
        return [str(item) for item in json.loads((folder / "run.json").read_text("utf-8"))["command"]]
    return []


def resume_command(kind: type[RunSettings], run: Callable[[Any], Any], arguments: Sequence[str] | None = None) -> bool:
    """Go on with a run if the command line says ``resume=RUN_FOLDER``.

    :param run: takes the settings
    :param arguments: of the command line; ``None`` takes ``sys.argv``
    :return: whether it said so
    """
    from daft_rl.cli import explain, hints_on_warnings

    given = sys.argv[1:] if arguments is None else list(arguments)
    folders = [item.removeprefix(PREFIX) for item in given if item.startswith(PREFIX)]
    if not folders:
        return False
    try:
        if len(given) > 1:
            raise ConfigError(f"resume={folders[0]}: a run goes on with its own settings. Leave out the others.")
        with hints_on_warnings():
            run(read_run(kind, folders[0]))
    except DaftError as error:
        print(explain(error), file=sys.stderr)
        sys.exit(2)
    return True


@contextmanager
def stoppable(program: str) -> Iterator[None]:
    """Inside of the block, Ctrl-C and SIGTERM stop a run with a checkpoint, and the process ends with code 75.

    :param program: module that can go on, for the message
    """
    with interruption.listen():
        try:
            yield
        except Interrupted as stop:
            if stop.folder is None:
                print("Stopped.", file=sys.stderr)
            else:
                print(f"Stopped. To go on: python -m {program} resume={stop.folder}", file=sys.stderr)
            sys.exit(RESUMABLE)
