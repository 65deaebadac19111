"""Names of run folders and of what lies there, and folders of new names."""

from __future__ import annotations

import hashlib
import re
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daft_rl.settings import RunSettings

__all__ = [
    *("EVENT_FILES", "RACE_FILE", "RACE_FOLDER"),
    *("details", "make_folder", "make_new_folder", "plain", "shortened", "task_folder"),
]

RACE_FOLDER, RACE_FILE = "race", "race.json"
"""Where the arms of a race learn, each in a run folder of its own; and in there, what the race has found out."""

EVENT_FILES = "events.out.tfevents.*.daft_rl"
"""TensorBoard reads every file with ``tfevents`` in its name. The end tells those of a run from those of others."""
LONGEST = 60
LONGEST_OF_SWEEP = 150
"""File systems take 255 bytes."""
BY_ID = ("gymnasium", "mujoco", "safety")
"""Choices of ``env`` that stand for any environment."""


def plain(text: str) -> str:
    """A text as part of a path."""
    return re.sub(r"[^\w.=-]+", "-", text).strip(".-")[:LONGEST] or "unnamed"


def details(shift: Any = None, agent: Any = None) -> str:
    """What a folder's name tells beside the time: shift and agent, each behind ``_``, if they are given by a name."""
    named = [shift, Path(agent).stem if isinstance(agent, str) else None]
    return "".join(f"_{plain(text)}" for text in named if isinstance(text, str))


def shortened(name: str) -> str:
    """The folder of one run of a sweep. A long name ends early, with a digest of all of it."""
    if len(name.encode()) <= LONGEST_OF_SWEEP:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name.encode()[: LONGEST_OF_SWEEP - 13].decode(errors='ignore')}_{digest}"


def task_folder(choice: str, id: str | None, name: str | None) -> str:
    """The folder of a task's runs: its name, or the id of an environment of somebody else's.

    :param choice: of the group ``env``
    """
    return plain(id or name or choice) if choice in BY_ID else choice


def make_folder(folder: Path) -> tuple[Path, list[Path]]:
    """Make a folder.

    :return: the folder, as an absolute path, since an environment may change the working directory; and every folder
        that was made, the innermost first
    """
    folder = folder.absolute()
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return folder, missing


def make_new_folder(settings: RunSettings) -> tuple[Path, list[Path]]:
    """Make ``runs/TASK/METHOD/seed-N/TIME``, with shift and agent in its name, that nobody else has."""
    parent = Path("runs") / plain(settings.env.name) / plain(settings.method.name) / f"seed-{settings.seed}"
    parent, made = make_folder(parent)
    agent = getattr(settings, "agent", None)
    name = time.strftime("%Y-%m-%d_%H-%M-%S") + details(settings.env.shift, agent and agent.path)
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}_{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder, [folder, *made]
    raise AssertionError
