"""What a run keeps to go on, beside the state of its model."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from daft_rl.errors import CheckpointError
from daft_rl.rollout.returns import Returns

__all__ = ["Progress", "Stateful", "stateful_wrappers"]


@dataclass(frozen=True)
class Progress:
    """What an earlier process of a run has done."""

    zero_shot: dict[str, Returns] | None = None
    """Returns of the source by role, if all episodes were played."""
    journals: dict[str, int] = field(default_factory=dict)
    """Sizes in bytes of the files to which the run appends."""
    seconds: float = 0.0
    in_background: float = 0.0
    """Seconds of evaluations in other processes."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        played = None if self.zero_shot is None else {role: one.as_dict() for role, one in self.zero_shot.items()}
        return {**vars(self), "zero_shot": played}

    @classmethod
    def of(cls, checkpoint: dict[str, Any] | None) -> Progress:
        """What a checkpoint tells.

        :raises CheckpointError: it tells nothing of the kind
        """
        if checkpoint is None:
            return cls()
        try:
            found = cls(**checkpoint["progress"])
            played = found.zero_shot and {role: Returns.from_dict(data) for role, data in found.zero_shot.items()}  # type: ignore[arg-type]
            sizes = {str(name): int(size) for name, size in found.journals.items()}
            return cls(played, sizes, float(found.seconds), float(found.in_background))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"The checkpoint tells no progress: {type(error).__name__}: {error}") from error


class Stateful(Protocol):
    """A part of a run whose state can be taken out and put back, so that a run can go on."""

    def state_dict(self) -> Any:
        """The state, as plain data, arrays and tensors."""

    def load_state_dict(self, state: Any) -> None:
        """Go on from a state."""


class _Normalization:
    """The state of a ``VecNormalize``."""

    def __init__(self, normalizer: VecNormalize) -> None:
        self.normalizer: Any = normalizer

    def _running(self) -> dict[str, Any]:
        observations = getattr(self.normalizer, "obs_rms", None)
        by_key = observations if isinstance(observations, dict) else {"": observations}
        return {f"obs {key}": part for key, part in by_key.items() if part is not None} | {
            "ret": self.normalizer.ret_rms
        }

    def state_dict(self) -> dict[str, Any]:
        running = {name: (part.mean.copy(), part.var.copy(), part.count) for name, part in self._running().items()}
        return {"running": running, "returns": self.normalizer.returns.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._running().items():
            mean, var, part.count = state["running"][name]
            part.mean, part.var = mean.copy(), var.copy()
        self.normalizer.returns = state["returns"].copy()


class _EpisodeSums:
    """The state of a ``VecMonitor``."""

    def __init__(self, monitor: VecMonitor) -> None:
        self.monitor = monitor

    def state_dict(self) -> dict[str, Any]:
        monitor = self.monitor
        return {
            "returns": monitor.episode_returns.copy(),
            "lengths": monitor.episode_lengths.copy(),
            "count": monitor.episode_count,
            "seconds": time.time() - monitor.t_start,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        monitor = self.monitor
        monitor.episode_returns, monitor.episode_lengths = state["returns"].copy(), state["lengths"].copy()
        monitor.episode_count, monitor.t_start = state["count"], time.time() - state["seconds"]


def stateful_wrappers(venv: VecEnv | None) -> dict[str, Stateful]:
    """The wrappers that hold more than an episode's state, outermost first."""
    found: dict[str, Stateful] = {}
    while isinstance(venv, VecEnvWrapper):
        name = type(venv).__name__
        if isinstance(venv, VecNormalize):
            found[name] = _Normalization(venv)
        elif isinstance(venv, VecMonitor):
            found[name] = _EpisodeSums(venv)
        elif hasattr(type(venv), "state_dict"):  # the wrapper itself passes on the attributes of what it wraps
            found[name] = venv
        venv = venv.venv
    return found
