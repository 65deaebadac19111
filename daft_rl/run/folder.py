"""The folder of a run."""

from __future__ import annotations

from pathlib import Path

import yaml

from daft_rl.errors import ConfigError
from daft_rl.settings import RunSettings

__all__ = ["open_folder"]


def open_folder(settings: RunSettings) -> Path:
    """Make the run folder, and write ``config.yaml``, which holds every setting.

    Results of an earlier run in the same folder go, since its settings are overwritten.

    :raises ConfigError: nothing can be written there
    """
    folder = Path(settings.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").unlink(missing_ok=True)
        text = yaml.safe_dump(settings.as_dict(), sort_keys=False, allow_unicode=True)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"output_dir={folder}: nothing can be written there: {error}.") from error
    return folder
