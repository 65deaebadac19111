"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

__all__ = ["write_json"]


def write_json(path: Path, data: Any) -> None:
    """Write a file whole or not at all. A number that is NaN or infinite becomes ``null``: JSON has no such numbers."""
    text = json.dumps(_strict(data), indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    # runs of a grid, maybe on several machines, may write the same file
    with NamedTemporaryFile("w", dir=path.parent, prefix=f"{path.name}.", encoding="utf-8", delete=False) as unfinished:
        unfinished.write(text)
    Path(unfinished.name).chmod(0o644)
    Path(unfinished.name).replace(path)


def _strict(data: Any) -> Any:
    """Plain data without NaN and infinite numbers."""
    if isinstance(data, dict):
        return {key: _strict(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_strict(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
