"""Numbers and texts in a pickle of an archive that is not executed: its operations are listed."""

from __future__ import annotations

import base64
import pickletools
from typing import Any

from daft_rl.archives.text import class_name

__all__ = ["Operation", "list_operations"]

Operation = tuple[str, Any]
"""Name of an operation of a pickle, and its argument."""
MAX_TEXT = 8000
"""Characters of the pickle. That of a number and a unit has about 200, that of a small function 1000 to 2000."""


def list_operations(entry: Any, kind: str) -> list[Operation]:
    """The operations of a pickled attribute. What was remembered stands where it is recalled, as far as it is plain.

    :param entry: of the archive's ``data``
    :param kind: name of the class of what was pickled
    :return: empty if the entry holds no pickle of that kind, or one that cannot be listed
    """
    text = entry.get(":serialized:") if isinstance(entry, dict) else None
    if not isinstance(text, str) or len(text) > MAX_TEXT or (class_name(entry) or "").rpartition(".")[2] != kind:
        return []
    try:
        operations = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(base64.b64decode(text))]
    except Exception:  # of a damaged pickle, whatever it is
        return []
    remembered: dict[Any, Any] = {}
    found: list[Operation] = []
    for name, argument in operations:
        if name == "MEMOIZE" or "PUT" in name:
            remembered[len(remembered) if argument is None else argument] = found[-1][1] if found else None
        else:
            found.append((name, remembered.get(argument) if name.endswith("GET") else argument))
    return found
