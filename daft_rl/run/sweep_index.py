"""Which run of a sweep lies in which folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from daft_rl.files import write_json

__all__ = ["SweepIndex"]


class SweepIndex(Callback):
    """At the end of a sweep: write ``index.json``, the settings of each run by the name of its folder."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Hydra has left the settings of each run in its folder."""
        folder = Path(config.hydra.sweep.dir)
        found = {path.parent.parent.name: path for path in sorted(folder.glob("*/.hydra/overrides.yaml"))}
        if found:
            index = {name: yaml.safe_load(path.read_text("utf-8")) for name, path in found.items()}
            write_json(folder / "index.json", index)
