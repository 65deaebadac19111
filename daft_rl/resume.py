"""Stopping and going on from the command line: ``resume=RUN_FOLDER``, signals, and the exit code that says "go on"."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from daft_rl.envs.domain import read_domains
from daft_rl.errors import ConfigError, DaftError, FinishedRunError, TaskError
from daft_rl.files import read_mapping
from daft_rl.outputs import keep_outputs
from daft_rl.run.interruption import RESUMABLE, Interrupted, interruption
from daft_rl.run.names import RACE_FILE
from daft_rl.settings import RunSettings, TransferSettings

__all__ = ["command_of", "read_run", "refuse_other", "resume_command", "stoppable"]

Settings = TypeVar("Settings", bound=RunSettings)
PREFIX, TRUST = "resume=", "agent.trust=true"


def read_run(kind: type[Settings], folder: str | Path, trust: bool = False) -> Settings:
    """The settings of the run in a folder.

    :param kind: of the program that made the folder
    :param trust: whether code of the agent's file may be executed where the run says so: the folder may be of others
    :raises DaftError: the folder holds no such run
    """
    path = Path(folder) / "config.yaml"
    try:
        found = read_mapping(path)
    except FileNotFoundError:
        raise ConfigError(f"{folder} holds no run: there is no {path.name}.") from None
    race = path.absolute().parent.parent
    if (race / RACE_FILE).exists():
        raise ConfigError(f"{folder} is an arm of a race, which goes on as a whole: name {race.parent}.")
    if not {"method", "env"} <= found.keys():
        raise ConfigError(f"{path} does not hold the settings of a run.")
    try:
        settings = kind.from_dict(found | {"output_dir": str(folder), "overwrite": False})
    except DaftError as error:
        raise ConfigError(f"{path}: {error}", arguments=error.arguments) from error
    agent = getattr(settings, "agent", None)
    if agent is not None and agent.trust and not trust:
        raise ConfigError(
            f"{path} has agent.trust=true: the run executes code from {agent.path}. Say so again if you trust it.",
            arguments=("trust",),
        )
    return settings


def refuse_other(settings: TransferSettings, env: Any, method: str | None) -> None:
    """
    :param settings: of the run that is to go on
    :param env: name of the environment that is given for it, if one is
    :param method: likewise
    :raises DaftError: they are others than the run's; or none is given, and that of the run was a Python object
    """
    for name, given, own in (("env", env, settings.env.name), ("method", method, settings.method.name)):
        if given not in (None, own):
            raise ConfigError(f"This is a run of {name}={own!r}, and cannot go on with {given!r}.")
    if env is None:
        try:
            read_domains(vars(settings.env), settings.evaluation.elsewhere)
        except TaskError as error:
            raise ConfigError(f"{error} If it was a Python object, pass it again: env=...") from error


def command_of(folder: Path) -> list[str]:
    """What was given on the command line of the run in a folder."""
    with suppress(OSError, ValueError, AttributeError, TypeError):
        return [str(item) for item in json.loads((folder / "run.json").read_text("utf-8"))["command"]]
    return []


def resume_command(kind: type[RunSettings], run: Callable[[Any], Any], arguments: Sequence[str] | None = None) -> bool:
    """Go on with a run if the command line says ``resume=RUN_FOLDER``. With a finished run there is nothing to do.

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
        if {*given} - {PREFIX + folders[0], TRUST}:
            raise ConfigError(f"resume={folders[0]}: a run goes on with its own settings. Leave out the others.")
        with hints_on_warnings():
            run(read_run(kind, folders[0], TRUST in given))
    except FinishedRunError:  # a signal may have come between the results and the end of the process
        print(f"{folders[0]} holds a finished run. Nothing is left to do.")
    except DaftError as error:
        print(explain(error), file=sys.stderr)
        sys.exit(2)
    return True


@contextmanager
def stoppable(program: str) -> Iterator[None]:
    """Inside of the block, Ctrl-C and SIGTERM stop a run with a checkpoint, and the process ends with code 75.

    :param program: module that can go on, for the message
    """
    keep_outputs()
    with interruption.listen():
        try:
            yield
        except (Interrupted, Exception) as stop:
            if not isinstance(stop, Interrupted) and not interruption.raised:
                raise
            with suppress(OSError):  # the terminal may be gone
                print(f"Stopped.{_remedy(program, getattr(stop, 'folder', None))}", file=sys.stderr, flush=True)
            sys.exit(RESUMABLE)


def _remedy(program: str, folder: Path | None) -> str:
    if program == "daft_rl.benchmark":
        return " To go on: the same command."
    return "" if folder is None else f" To go on: python -m {program} {shlex.quote(f'{PREFIX}{folder}')}"
