"""The folder of a run."""

from __future__ import annotations

import traceback
from contextlib import suppress
from pathlib import Path

import yaml

from daft_rl.errors import ConfigError, DaftError
from daft_rl.settings import RunSettings

__all__ = ["note_traceback", "open_folder"]


def open_folder(settings: RunSettings) -> Path:
    """Make the run folder, and write ``config.yaml``, which holds every setting.

    Results of an earlier run in the same folder go, since its settings are overwritten.

    :raises ConfigError: nothing can be written there
    """
    folder = Path(settings.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for outdated in ("results.json", "error.txt"):
            (folder / outdated).unlink(missing_ok=True)
        text = yaml.safe_dump(settings.as_dict(), sort_keys=False, allow_unicode=True)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"output_dir={folder}: nothing can be written there: {error}.") from error
    return folder


def note_traceback(folder: Path, error: Exception) -> None:
    """Write the traceback of an error into ``error.txt``, and say so in its message.

    An error of ours that nothing has caused is told by its message alone.
    """
    if isinstance(error, DaftError) and error.__cause__ is None:
        return
    path = folder / "error.txt"
    with suppress(OSError):  # a full disk must not hide what happened
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        if isinstance(error, DaftError):
            error.args = (f"{error} The traceback is in {path}.",)
