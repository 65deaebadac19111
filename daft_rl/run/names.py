"""Names of run folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["details", "plain"]

LONGEST = 60


def plain(text: str) -> str:
    """A text as part of a path."""
    return re.sub(r"[^\w.=-]+", "-", text).strip(".-")[:LONGEST] or "unnamed"


def details(shift: Any = None, agent: Any = None) -> str:
    """What a folder's name tells beside the time: shift and agent, each behind ``_``, if they are given by a name."""
    named = [shift, Path(agent).stem if isinstance(agent, str) else None]
    return "".join(f"_{plain(text)}" for text in named if isinstance(text, str))
