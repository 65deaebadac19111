"""What a user's own callbacks and logger see of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.logger import KVWriter, Logger

from daft_rl.errors import ConfigError

__all__ = ["Listeners", "UserCallback"]

UserCallback = BaseCallback | Callable[[dict[str, Any], dict[str, Any]], bool]
"""What SB3's ``learn`` takes: a callback, or a function of local and global variables."""


@dataclass(frozen=True)
class Listeners:
    """They are called where the run itself learns: in a race, where the winner goes on."""

    callbacks: Sequence[BaseCallback] = ()
    outputs: Sequence[KVWriter] = ()
    """What writes scalars beside TensorBoard. They stay open."""

    @classmethod
    def of(cls, callback: UserCallback | Sequence[UserCallback] | None, logger: Logger | None) -> Listeners:
        """
        :param callback: one or several of SB3
        :param logger: of SB3; its formats are taken
        :raises ConfigError: something else
        """
        if logger is not None and not isinstance(logger, Logger):
            raise ConfigError(
                f"logger: expected a Logger of Stable-Baselines3, such as configure(FOLDER, ['csv']), got {logger!r}."
            )
        given = callback if isinstance(callback, list | tuple) else [] if callback is None else [callback]
        return cls([_as_callback(one) for one in given], [] if logger is None else logger.output_formats)


def _as_callback(given: Any) -> BaseCallback:
    if isinstance(given, BaseCallback):
        return given
    if isinstance(given, type) or not callable(given):
        raise ConfigError(f"callback: expected a callback of Stable-Baselines3, or a list of them, got {given!r}.")
    return ConvertCallback(given)
