"""How often an archive's off-policy algorithm learned, which SB3 stores as a pickle and nothing else.

Before SB3 1.0 it was a number of steps, or ``-1`` where a number of episodes stood in an attribute of its own.
"""

from __future__ import annotations

from typing import Any

from daft_rl.archives.pickles import list_operations

__all__ = ["is_frequency", "read_train_freq"]

MAX_FREQUENCY = 10**9
UNITS = ("step", "episode")


def read_train_freq(entry: Any, episodes: Any = None) -> Any:
    """``train_freq`` as JSON could hold it.

    :param entry: of the archive's ``data``
    :param episodes: ``n_episodes_per_rollout`` there, which was 1 if nobody said otherwise
    :return: like ``[256, "step"]``; or ``entry`` itself, if it is no ``TrainFreq`` or cannot be read
    """
    if entry == -1:
        counted = [episodes, "episode"]
        return counted if is_frequency(counted) else [1, "episode"]
    operations = list_operations(entry, "TrainFreq")
    found = [argument for name, argument in operations if name.startswith("BININT") or argument in UNITS]
    return found if is_frequency(found) else entry


def is_frequency(value: list[Any]) -> bool:
    """Whether this is a number above 0 and a unit, like ``[256, "step"]``."""
    return len(value) == 2 and type(value[0]) is int and 0 < value[0] <= MAX_FREQUENCY and value[1] in UNITS
