"""Archives of Stable-Baselines3: reading them without running what is pickled in them, saving, finding shipped ones.

Who does what, from the file to the agent:

- ``sources`` finds the archive of a source policy; it needs no PyTorch.
- ``container`` reads the zip as data, with ``tensors``, ``text`` (printed spaces and arrays), ``hyperparameters``
  (arguments of constructors), ``schedules`` and ``train_freq`` (numbers in ``pickles``, which are not executed),
  ``buffers`` (the replay buffer) and ``checks`` (what every reader refuses).
- ``architecture`` infers the sizes of the networks, ``build`` makes the agent, whose spaces ``space_checks`` compares,
  and ``restore`` gives it weights, optimizer states and counters. For another body, ``settle`` says which entries are
  which, and ``carried`` fits statistics. ``load`` puts these steps together.
- ``trusted`` reads with SB3's own loader instead, ``bare`` puts a policy alone into an agent.
- ``vecnormalize`` reads statistics of a ``VecNormalize``, ``statistics_files`` finds those of an agent, and
  ``statistics_wrapper`` puts them around environments. ``save`` writes an archive and what belongs to it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daft_rl.archives.container import ArchiveContents, read_archive
    from daft_rl.archives.hyperparameters import check_hyperparameters
    from daft_rl.archives.load import load_agent
    from daft_rl.archives.save import read_multiplier, save_agent
    from daft_rl.archives.sources import find_agent
    from daft_rl.archives.space_checks import check_space
    from daft_rl.archives.statistics_files import find_vecnormalize
    from daft_rl.archives.statistics_wrapper import (
        ChosenStatistics,
        apply_vecnormalize,
        choose_statistics,
        was_normalized,
    )
    from daft_rl.archives.vecnormalize import VecNormalizeStatistics, read_vecnormalize

__all__ = [
    "ArchiveContents",
    "ChosenStatistics",
    "VecNormalizeStatistics",
    "apply_vecnormalize",
    "check_hyperparameters",
    "check_space",
    "choose_statistics",
    "find_agent",
    "find_vecnormalize",
    "load_agent",
    "read_archive",
    "read_multiplier",
    "read_vecnormalize",
    "save_agent",
    "was_normalized",
]

_MODULES = {
    "ArchiveContents": "container",
    "ChosenStatistics": "statistics_wrapper",
    "VecNormalizeStatistics": "vecnormalize",
    "apply_vecnormalize": "statistics_wrapper",
    "check_hyperparameters": "hyperparameters",
    "choose_statistics": "statistics_wrapper",
    "check_space": "space_checks",
    "find_agent": "sources",
    "find_vecnormalize": "statistics_files",
    "load_agent": "load",
    "read_archive": "container",
    "read_multiplier": "save",
    "read_vecnormalize": "vecnormalize",
    "save_agent": "save",
    "was_normalized": "statistics_wrapper",
}


def __getattr__(name: str) -> Any:
    """Import on first use: PyTorch takes seconds, and :func:`find_agent` does not need it."""
    if name in _MODULES:
        return getattr(import_module(f"daft_rl.archives.{_MODULES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
