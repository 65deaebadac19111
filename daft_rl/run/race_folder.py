"""The folder of a race: where its arms learn, and ``race.json``, which keeps what is found out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from shutil import rmtree
from typing import Any

from daft_rl.checkpoint import CheckpointStore
from daft_rl.errors import CheckpointError
from daft_rl.files import UNFINISHED, sync, write_json
from daft_rl.run.names import RACE_FILE, RACE_FOLDER, plain

__all__ = ["RaceFolder"]

OWN_FILES = ("config.yaml", "run.json", "run.lock")
"""What a run folder holds that belongs to the arm, and not to what it has learnt."""
LOOK_FOLDER = ".look"
"""Of runs that only look at an arm; no arm has such a folder."""


class RaceFolder:
    """Gives each arm a run folder of its own in ``RUN_FOLDER/race``, and keeps the state of the race.

    :param run_folder: of the run that holds the race
    :param arms: their names
    """

    def __init__(self, run_folder: Path, arms: Iterable[str]) -> None:
        self.run_folder, self.path = run_folder, run_folder / RACE_FOLDER
        self._arms: dict[str, Path] = {}
        for name in arms:
            own = plain(name)
            while own == RACE_FILE or self.path / own in self._arms.values():  # "a b" and "a-b" are one as a path
                own += "_"
            self._arms[name] = self.path / own

    def of(self, arm: str) -> Path:
        """Where an arm learns."""
        return self._arms[arm]

    @property
    def look(self) -> Path:
        """Where a run looks at an arm."""
        return self.path / LOOK_FOLDER

    def clear_look(self) -> None:
        """Delete what such a run has left."""
        rmtree(self.look, ignore_errors=True)

    def read(self) -> dict[str, Any] | None:
        """What an earlier process has found out; ``None`` if there was none.

        :raises CheckpointError: the file is damaged
        """
        path = self.path / RACE_FILE
        try:
            found = json.loads(path.read_text("utf-8"))
            if [*found["arms"]] != [*self._arms] or not {found.get("winner")} <= {None, *self._arms}:
                raise ValueError("it is of another race")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{path} is damaged: {error}. Pass overwrite=True to begin anew."
            raise CheckpointError(message, arguments=("overwrite",)) from error
        return dict(found)

    def write(self, state: dict[str, Any]) -> None:
        """Keep what is found out."""
        write_json(self.path / RACE_FILE, state)

    def promote(self, winner: str) -> None:
        """Move what the winner has learnt to the run folder, and delete of the others what nobody goes on from."""
        for name, folder in self._arms.items():
            if name == winner and folder.is_dir():
                for path in list(folder.iterdir()):
                    if path.name not in OWN_FILES and not path.name.startswith(UNFINISHED):
                        _move(path, self.run_folder / path.name)
                sync(self.run_folder)
                rmtree(folder)
            elif folder.is_dir():
                CheckpointStore(folder / "checkpoints", keep=1).clear()
                for path in [*folder.glob("*.zip"), *folder.glob("*.pkl")]:
                    if not path.name.startswith("last_good"):  # the message of an arm that diverged tells of it
                        path.unlink()


def _move(path: Path, goal: Path) -> None:
    """Move a file or a folder. In a folder that is there already, files of others may lie."""
    if path.is_dir() and goal.is_dir():
        for inner in list(path.iterdir()):
            _move(inner, goal / inner.name)
    else:
        path.replace(goal)
