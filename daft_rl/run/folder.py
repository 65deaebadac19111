"""The folder of a run: its name, its lock, what an earlier run has left there, and what goes if the run fails."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.errors import ConfigError, DaftError, DivergenceError, FaultyEnvironmentError
from daft_rl.files import UNFINISHED, read_mapping, write_json, write_text
from daft_rl.run.fingerprints import IRRELEVANT, fingerprint_agent, fingerprint_weights
from daft_rl.run.lock import FolderLock
from daft_rl.run.names import details, plain
from daft_rl.settings import RunSettings

__all__ = ["MONITOR_FILE", "TENSORBOARD_FOLDER", "Identity", "RunFolder", "note_traceback"]

CONFIG_FILE, IDENTITY_FILE, ERROR_FILE, TRACEBACK_FILE = "config.yaml", "run.json", "error.json", "error.txt"
MONITOR_FILE, TENSORBOARD_FOLDER = "monitor.csv", "tensorboard"
RESULT_FILES = ("results.json", "card.json")
"""Whoever has one of these is finished."""
SIDE_FILES = ("vecnormalize.pkl", "constraint.json")
OF_TRANSFERS = (
    *("final.zip", "best.zip", "source.zip", "target.mp4", "source.mp4"),
    *(f"{prefix}{name}" for prefix in ("", "best_", "source_") for name in SIDE_FILES),
)
OTHER_FILES = ("agent.zip", "README.md", "error.txt", "last_good.zip", *(f"last_good_{name}" for name in SIDE_FILES))
FOLDERS = (TENSORBOARD_FOLDER, "checkpoints")


@dataclass(frozen=True)
class Identity:
    """What tells a run from another of the same settings."""

    agent: Path | None = None
    """The archive of the source, if it is one."""
    agent_fingerprint: tuple[str, ...] = ()
    """Of the source."""
    command: tuple[str, ...] = ()
    """What was given on the command line."""

    @classmethod
    def of(cls, agent: Path | BaseAlgorithm, command: tuple[str, ...] = ()) -> Identity:
        """The identity of a transfer of this agent."""
        if isinstance(agent, Path):
            return cls(agent, tuple(fingerprint_agent(agent)), command)
        return cls(None, (fingerprint_weights(agent),), command)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"agent": list(self.agent_fingerprint), "command": list(self.command)}


class RunFolder:
    """Opens the folder of a run, and writes ``config.yaml``, which holds every setting.

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
            self.path, self._made = _make(Path(given)) if given is not None else _make_new(settings)
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
        for name in (ERROR_FILE, TRACEBACK_FILE):
            (self.path / name).unlink(missing_ok=True)
        kept = replace(self.settings, output_dir=self.path, overwrite=False).as_dict()
        write_text(self.path / CONFIG_FILE, yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))
        write_json(self.path / IDENTITY_FILE, self.identity.as_dict())

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

        :raises ConfigError: it holds a finished run, or an unfinished one of other settings
        """
        if self.settings.overwrite:
            return False
        finished = next((name for name in RESULT_FILES if (self.path / name).exists()), None)
        if finished is not None:
            shutil.rmtree(self.path / "checkpoints", ignore_errors=True)  # it was killed before it could do so
            raise ConfigError(
                f"{self.path} holds a finished run ({finished}). Name another folder, or pass overwrite=True to delete "
                "it.",
                arguments=("output_dir", "overwrite"),
            )
        before = _read_settings(self.path)
        if before is None:
            return False
        changed = _changed(before, self.settings.as_dict())
        if self._agent_of_before() != list(self.identity.agent_fingerprint):
            changed.append("agent")
        if changed and any((self.path / "checkpoints").glob("*.zip")):
            raise ConfigError(
                f"{self.path} holds an unfinished run with another {', '.join(changed)}. Name another folder, or pass "
                "overwrite=True to delete it.",
                arguments=("output_dir", "overwrite"),
            )
        return not changed

    def _agent_of_before(self) -> Any:
        with suppress(OSError, ValueError, AttributeError):
            return json.loads((self.path / IDENTITY_FILE).read_text("utf-8")).get("agent")
        return None

    def _clear(self) -> None:
        """Delete what an earlier run has left. Other files stay."""
        if self.settings.overwrite or (self.path / CONFIG_FILE).exists():
            names = {*RESULT_FILES, *OF_TRANSFERS, *OTHER_FILES, ERROR_FILE, MONITOR_FILE, IDENTITY_FILE, CONFIG_FILE}
            if self.identity.agent is not None and self.identity.agent.resolve().parent == self.path.resolve():
                names.discard(self.identity.agent.name)
            for name in names:
                (self.path / name).unlink(missing_ok=True)
            for name in FOLDERS:
                shutil.rmtree(self.path / name, ignore_errors=True)
        for leftover in self.path.glob(f"{UNFINISHED}*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    # -- files that grow ------------------------------------------------------------------------------

    def _journals(self) -> dict[str, Path]:
        """The files to which a run appends while it learns, by a name for checkpoints."""
        paths = [self.path / MONITOR_FILE, *sorted((self.path / TENSORBOARD_FOLDER).glob("events.*"))]
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

    # -- the end --------------------------------------------------------------------------------------

    def note_error(self, error: BaseException | None) -> None:
        """Tell of an error in ``error.json`` and ``error.txt``; leave nothing of a run refused at its start."""
        if error is None or not isinstance(error, Exception):
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
        self._lock.delete()
        _remove_empty(self._made)

    def release(self) -> None:
        """Let others have the folder."""
        self._lock.release()


def _make(folder: Path) -> tuple[Path, list[Path]]:
    """Make a folder.

    :return: the folder, and every folder that was made, the innermost first
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return folder, missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # somebody else has put something there
            folder.rmdir()


def _make_new(settings: RunSettings) -> tuple[Path, list[Path]]:
    """Make ``runs/TASK/METHOD/seed-N/TIME``, with shift and agent in its name, that nobody else has."""
    parent = Path("runs") / plain(settings.env.name) / plain(settings.method.name) / f"seed-{settings.seed}"
    _, made = _make(parent)
    agent = getattr(settings, "agent", None)
    name = time.strftime("%Y-%m-%d_%H-%M-%S") + details(settings.env.shift, agent and agent.path)
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}_{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder, [folder, *made]
    raise AssertionError


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
    """Names of the settings that differ and matter, with a dot before those of a group."""
    plain = json.loads(json.dumps(now))
    found = []
    for name in [name for name in {**before, **plain} if name not in IRRELEVANT]:
        one, other = before.get(name), plain.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            keys = [key for key in {**one, **other} if key not in IRRELEVANT]
            found += [f"{name}.{key}" for key in keys if one.get(key) != other.get(key)]
        elif one != other:
            found.append(name)
    return found
