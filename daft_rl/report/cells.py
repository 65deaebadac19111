"""The unit of a report: one finished transfer, and what a report measures on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from daft_rl.envs.registry import levels, task_names
from daft_rl.rollout.returns import Returns
from daft_rl.run.results import TransferResult

__all__ = ["Cell", "Failure", "Floats", "When", "level_name", "target_name"]

Floats = NDArray[np.float64]
When = Literal["zero_shot", "final"]
"""Before learning, or after it."""


@dataclass(frozen=True)
class Cell:
    """One finished transfer."""

    result: TransferResult
    peak_memory_mb: float | None = None
    """Peak memory of the process during the run; ``None`` if it was not measured."""
    content: str | None = None
    """Fingerprint of the agent's file and of the shifts that the names of levels stand for; ``None`` if not known."""

    @property
    def folder(self) -> Path:
        """Run folder, or the file in which the cell was saved."""
        return self.result.folder

    @property
    def target(self) -> str:
        """Task and shift, see :func:`target_name`."""
        return target_name(self.result.task, self.result.shift)

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.result.method

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.result.seed

    def returns(self, when: When = "final") -> dict[str, Returns]:
        """Returns by role: ``target``, ``source``, and other levels by name."""
        return self.result.final if when == "final" else self.result.zero_shot

    def mean(self, role: str = "target", when: When = "final") -> float:
        """Mean return over the episodes."""
        return self.returns(when)[role].mean

    def mean_on_source(self, when: When = "final") -> float | None:
        """Mean return on the source; ``None`` if the run did not evaluate there."""
        return self.mean("source", when) if "source" in self.returns(when) else None

    def mean_elsewhere(self, when: When = "final") -> float | None:
        """Mean return under shifts that are neither target nor source; ``None`` if the run did not evaluate there."""
        others = [returns.mean for role, returns in self.returns(when).items() if role not in ("target", "source")]
        return float(np.mean(others)) if others else None

    @property
    def curve(self) -> tuple[Floats, Floats]:
        """Target steps and mean returns of the evaluations during learning."""
        points = self.result.curve
        return np.array([p["timesteps"] for p in points], float), np.array([p["target"] for p in points], float)

    @property
    def area(self) -> float | None:
        """Mean height of the learning curve: its area divided by its length."""
        steps, returns = self.curve
        if len(steps) < 2:
            return None
        return float(np.sum(np.diff(steps) * (returns[1:] + returns[:-1]) / 2) / (steps[-1] - steps[0]))

    def steps_to(self, threshold: float) -> float | None:
        """Target steps at the first evaluation with a mean return of at least ``threshold``; ``None`` if none has."""
        steps, returns = self.curve
        reached = np.flatnonzero(returns >= threshold)
        return float(steps[reached[0]]) if len(reached) else None

    def last_distance(self, name: str) -> float | None:
        """A distance at the last evaluation during learning, such as ``distortion_actor_cosine``.

        ``None`` if the only evaluation was at the start, where nothing has moved.
        """
        return self.result.curve[-1].get(name) if len(self.result.curve) > 1 else None

    def layers(self, role: str) -> dict[str, dict[str, float]]:
        """``cosine``, ``l2`` and ``cka`` between each layer's features now and at the start.

        :param role: ``target`` or ``source``, whose states the features were computed on
        """
        distances = self.result.distortion if role == "target" else self.result.distortion_on_source
        return {layer: values for layer, values in distances.items() if values.keys() >= {"cosine", "l2", "cka"}}


@dataclass(frozen=True)
class Failure:
    """One transfer that raised an error."""

    folder: Path
    error: str

    @property
    def name(self) -> str:
        """Task, method and seed. The way to them in the folder is of one machine."""
        return Path(*self.folder.parts[-3:]).as_posix()


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {_in_words(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_in_words(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def target_name(task: str, changes: Mapping[str, Any]) -> str:
    """A task and its shift in words, like ``Ant: gravity 0.5``.

    :param task: with or without ``-shifted``
    :param changes: fields of the shift that change something
    """
    shift = ", ".join(f"{name} {_in_words(value)}" for name, value in sorted(changes.items()))
    return f"{task.removesuffix('-shifted')}: {shift or 'no shift'}"


def level_name(target: str, result: TransferResult) -> str:
    """A task and the level that is its shift, like ``Ant: morphology-medium``, if that is shorter.

    :param target: its name in words, see :func:`target_name`
    :param result: of a transfer to it
    """
    task = result.task.removesuffix("-shifted")
    known = levels(task) if task in task_names() else {}
    found = [f"{task}: {level}" for level, shift in known.items() if shift and target_name(task, shift) == target]
    return min([*found, target], key=len)
