"""The folder of a run: its name, its lock, what an earlier run has left there, and what goes if the run fails."""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from daft_rl.checkpoint import CheckpointStore
from daft_rl.errors import ConfigError, DaftError, DivergenceError, FaultyEnvironmentError, FinishedRunError
from daft_rl.files import UNFINISHED, delete_files, read_mapping, write_json, write_text
from daft_rl.run.fingerprints import IRRELEVANT
from daft_rl.run.identity import IDENTITY_FILE, Identity, KeptIdentity
from daft_rl.run.lock import FolderLock
from daft_rl.run.names import EVENT_FILES, RACE_FILE, RACE_FOLDER, make_folder, make_new_folder
from daft_rl.settings import RunSettings

__all__ = ["MONITOR_FILE", "START_FILE", "RunFolder", "note_traceback"]

CONFIG_FILE, ERROR_FILE, TRACEBACK_FILE = "config.yaml", "error.json", "error.txt"
MONITOR_FILE = "monitor.csv"
RESULT_FILES = ("results.json", "card.json")
"""Whoever has one of these is finished."""
SIDE_FILES = ("vecnormalize.pkl", "constraint.json")
PREFIXES = ("", "final_at_home_", "best_", "start_", "blend_", "source_")
START_FILE = "start.zip"
OF_TRANSFERS = (
    *("final.zip", "final_at_home.zip", "best.zip", START_FILE, "blend.zip", "source.zip", "target.mp4", "source.mp4"),
    *("blend.json", "blend.png"),
    *(f"{prefix}{name}" for prefix in PREFIXES for name in SIDE_FILES),
)
OTHER_FILES = ("agent.zip", "README.md", "error.txt", "last_good.zip", *(f"last_good_{name}" for name in SIDE_FILES))
CHECKPOINTS_FOLDER = "checkpoints"


class RunFolder:
    """Opens the folder of a run, and writes ``config.yaml``, which holds every setting.

    Its path is absolute from the beginning, since an environment may change the working directory.

    :param settings: of the run
    :param identity: of the run
    :raises ConfigError: nothing can be written there; it holds a finished run, an unfinished one of other settings, or
        the source; or another process runs there
    """

    def __init__(self, settings: RunSettings, identity: Identity) -> None:
        self.settings, self.identity = settings, identity
        self.began = False
        """Whether there is something to lose."""
        given = settings.output_dir
        self._made: list[Path] = []
        try:
            self.path, self._made = make_folder(Path(given)) if given is not None else make_new_folder(settings)
            self._refuse_source()
            self._lock = FolderLock(self.path)
            try:
                self._open()
            except BaseException as error:
                if isinstance(error, OSError) and self._made:
                    self._leave_nothing()
                self.release()
                raise
        except OSError as error:
            _remove_empty(self._made)
            raise ConfigError(f"output_dir={given}: nothing can be written there: {error}.") from error

    def _open(self) -> None:
        self.goes_on = self._goes_on()
        if not self.goes_on:
            self._clear()
        self._clear_unfinished()
        for name in (ERROR_FILE, TRACEBACK_FILE):
            (self.path / name).unlink(missing_ok=True)
        kept = replace(self.settings, output_dir=self.path, overwrite=False).as_dict()
        write_text(self.path / CONFIG_FILE, yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))
        self.identity.write(self.path, self.settings)

    def _refuse_source(self) -> None:
        """
        :raises ConfigError: the run would overwrite its source
        """
        agent = self.identity.agent
        if agent is None or agent.resolve().parent != self.path.resolve():
            return
        own = [agent.name, *(name for name in SIDE_FILES if (self.path / name).exists())]
        taken = [name for name in own if name in OF_TRANSFERS]
        if taken:
            raise ConfigError(
                f"output_dir={self.path} holds the agent, and the run would overwrite its {taken[0]}. Name another "
                "folder.",
                arguments=("output_dir",),
            )

    def _goes_on(self) -> bool:
        """Whether the folder holds an unfinished run of the same settings.

        :raises FinishedRunError: it holds a finished run
        :raises ConfigError: it holds an unfinished run of other settings
        """
        if self.settings.overwrite:
            return False
        if (finished := self.finished()) is not None:
            if self._is_of_a_run():
                self._checkpoints().clear()  # it was killed before it could do so
            raise FinishedRunError(
                f"{self.path} holds a finished run ({finished}). Name another folder, or pass overwrite=True to delete "
                "it.",
                arguments=("output_dir", "overwrite"),
            )
        if not self._is_of_a_run():
            self._refuse_files_of_others()
            return False
        changed = _changed(_read_settings(self.path) or {}, self.settings.as_dict())
        way_on = f"To go on with it, pass resume={str(self.path)!r}. Or name" if changed else "Name"
        kept = KeptIdentity(self.path)
        if not kept.is_of_agent(self.identity):
            changed.append("agent")
        if not changed and not kept.is_of_settings(self.settings):
            changed.append(f"{CONFIG_FILE}, which was edited meanwhile")
        if changed and (self._checkpoints().steps() or (self.path / RACE_FOLDER / RACE_FILE).exists()):
            raise ConfigError(
                f"{self.path} holds an unfinished run with another {', '.join(changed)}. {way_on} another folder, or "
                "pass overwrite=True to delete it.",
                arguments=("output_dir", "overwrite"),
            )
        if not changed:
            kept.warn_of_another_machine()
        return not changed

    def _is_of_a_run(self) -> bool:
        """Whether what lies here is ours to delete: many programs write a ``config.yaml`` and ``checkpoints``."""
        return (self.path / IDENTITY_FILE).exists() or {"method", "env"} <= (_read_settings(self.path) or {}).keys()

    def _refuse_files_of_others(self) -> None:
        """
        :raises ConfigError: the run would overwrite what no run of ours has left
        """
        folders = (CHECKPOINTS_FOLDER, RACE_FOLDER)
        taken = [name for name in (*sorted(self._names()), *folders) if self._has(name)]
        if taken:
            raise ConfigError(
                f"output_dir={self.path} holds {taken[0]}, which no run of daft_rl has left. Name another folder.",
                arguments=("output_dir",),
            )

    def _has(self, name: str) -> bool:
        path = self.path / name
        return any(path.iterdir()) if path.is_dir() else path.exists()

    def _names(self) -> set[str]:
        """Of the files that runs write, without the source if it lies here."""
        names = {*RESULT_FILES, *OF_TRANSFERS, *OTHER_FILES, ERROR_FILE, MONITOR_FILE, IDENTITY_FILE, CONFIG_FILE}
        agent = self.identity.agent
        return names - {agent.name} if agent is not None and agent.resolve().parent == self.path.resolve() else names

    def _checkpoints(self) -> CheckpointStore:
        return CheckpointStore(self.path / CHECKPOINTS_FOLDER, self.settings.checkpoint.keep)

    def _clear(self) -> None:
        """Delete what an earlier run has left. Other files stay."""
        if self.settings.overwrite or self._is_of_a_run():
            for name in self._names():
                (self.path / name).unlink(missing_ok=True)
            self._checkpoints().clear()
            delete_files(self.path, EVENT_FILES)
            self._clear_race()

    def _clear_race(self) -> None:
        for arm in (self.path / RACE_FOLDER).glob("*"):
            if (arm / IDENTITY_FILE).exists():
                shutil.rmtree(arm, ignore_errors=True)
        delete_files(self.path / RACE_FOLDER, RACE_FILE, f"{UNFINISHED}*")

    def _clear_unfinished(self) -> None:
        """Delete what a process was writing when it was killed."""
        for leftover in self.path.glob(f"{UNFINISHED}*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    # -- files that grow ------------------------------------------------------------------------------

    def _journals(self) -> dict[str, Path]:
        """The files to which a run appends while it learns, by a name for checkpoints."""
        paths = [self.path / MONITOR_FILE, *sorted(self.path.glob(EVENT_FILES))]
        return {path.name: path for path in paths if path.is_file()}

    def journals(self) -> dict[str, int]:
        """Their sizes in bytes, after they have reached the disk."""
        sizes = {}
        for name, path in self._journals().items():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                sizes[name] = os.fstat(file.fileno()).st_size
        return sizes

    def cut_journals(self, sizes: Mapping[str, int]) -> None:
        """Cut them to the sizes that they had at a checkpoint: what follows is written again."""
        for name, path in self._journals().items():
            if name not in sizes:
                path.unlink()
            elif path.stat().st_size > sizes[name]:
                os.truncate(path, sizes[name])

    def finished(self) -> str | None:
        """The file that says that the folder holds a finished run, if there is one."""
        return next((name for name in RESULT_FILES if (self.path / name).exists()), None)

    def missing(self) -> ConfigError | None:
        """The error that ends the run, if the folder was moved or deleted: another run may have begun in its place."""
        if self._lock.holds():
            return None
        return ConfigError(
            f"The folder {self.path} was moved or deleted while its run went on. The run ends here. If you have moved "
            "it, go on from there: resume=FOLDER."
        )

    # -- the end --------------------------------------------------------------------------------------

    def note_error(self, error: BaseException | None) -> None:
        """Tell of an error in ``error.json`` and ``error.txt``; leave nothing of a run refused at its start."""
        if error is None or not isinstance(error, Exception) or not self._lock.holds():
            return
        refused = isinstance(error, DaftError) and not isinstance(error, FaultyEnvironmentError | DivergenceError)
        if refused and not self.began and not self.goes_on:
            self._leave_nothing()
            return
        note_traceback(self.path, error)
        with suppress(OSError):
            write_json(self.path / ERROR_FILE, {"error": f"{type(error).__name__}: {error}"})

    def _leave_nothing(self) -> None:
        self._clear()
        self._clear_unfinished()
        self._lock.delete()
        _remove_empty(self._made)

    def release(self) -> None:
        """Let others have the folder."""
        self._lock.release()


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # somebody else has put something there
            folder.rmdir()


def _read_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the run that a folder holds; ``None`` if there is none."""
    try:
        return read_mapping(folder / CONFIG_FILE)
    except FileNotFoundError:
        return None
    except ConfigError as error:
        print(error, file=sys.stderr)
        return {}


def note_traceback(folder: Path, error: BaseException) -> None:
    """Write the traceback of an error into ``error.txt``, and say so in its message.

    An error of ours that nothing has caused is told by its message alone.
    """
    if isinstance(error, DaftError) and error.__cause__ is None:
        return
    path = folder / TRACEBACK_FILE
    with suppress(OSError):  # a full disk must not hide what happened
        write_text(path, "".join(traceback.format_exception(error)))
        if isinstance(error, DaftError):
            error.args = (f"{error} The traceback is in {path}.",)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ and matter, with a dot before those of a group. Of another method, its name."""
    plain = json.loads(json.dumps(now))
    found = []
    for name in [name for name in {**before, **plain} if name not in IRRELEVANT]:
        one, other = before.get(name), plain.get(name)
        if name == "method" and one and one.get("name") != other["name"]:
            found.append(f"method ({one.get('name')})")
        elif isinstance(one, dict) and isinstance(other, dict):
            keys = [key for key in {**one, **other} if key not in IRRELEVANT]
            found += [f"{name}.{key}" for key in keys if one.get(key) != other.get(key)]
        elif one != other:
            found.append(name)
    return found
