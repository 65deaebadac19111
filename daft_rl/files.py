"""Files that are written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

__all__ = ["write_json"]


def write_json(path: Path, data: Any) -> None:
    """Write a file whole or not at all."""
    text = json.dumps(data, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    # runs of a grid, maybe on several machines, may write the same file
    with NamedTemporaryFile("w", dir=path.parent, prefix=f"{path.name}.", encoding="utf-8", delete=False) as unfinished:
        unfinished.write(text)
    Path(unfinished.name).chmod(0o644)
    Path(unfinished.name).replace(path)
