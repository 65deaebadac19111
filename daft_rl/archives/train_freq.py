"""How often an archive's off-policy algorithm learned, which SB3 stores as a pickle and nothing else.

The pickle is not executed: its operations are listed, and the one number and the one unit are looked up among them.
"""

from __future__ import annotations

import base64
import pickletools
from typing import Any

__all__ = ["is_frequency", "read_train_freq"]

MAX_TEXT = 2000
"""Characters of the pickle; usual are about 200."""
MAX_FREQUENCY = 10**9
UNITS = ("step", "episode")


def read_train_freq(entry: Any) -> Any:
    """``train_freq`` as JSON could hold it.

    :param entry: of the archive's ``data``
    :return: like ``[256, "step"]``; or ``entry`` itself, if it is no ``TrainFreq`` or cannot be read
    """
    text = entry.get(":serialized:") if isinstance(entry, dict) else None
    if not isinstance(text, str) or len(text) > MAX_TEXT or "TrainFreq" not in str(entry.get(":type:")):
        return entry
    try:
        operations = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(base64.b64decode(text))]
    except Exception:  # of a damaged pickle, whatever it is
        return entry
    found = [argument for name, argument in operations if name.startswith("BININT") or argument in UNITS]
    return found if is_frequency(found) else entry


def is_frequency(value: list[Any]) -> bool:
    """Whether this is a number above 0 and a unit, like ``[256, "step"]``."""
    return len(value) == 2 and type(value[0]) is int and 0 < value[0] <= MAX_FREQUENCY and value[1] in UNITS
