"""Returns of evaluated episodes, without PyTorch, so that reports start fast."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["ReturnSummary", "Returns", "in_few_samples"]


def in_few_samples(errors: float, samples: int) -> float:
    """How many standard errors are as sure as ``errors`` of them in many samples: a quantile of Student's t.

    By Wallace's approximation (Bounds on normal approximations to Student's and the chi-square distributions, 1959):
    within 10 % from four samples on, too large below, which is the safe side.

    :param errors: not negative
    :param samples: from which mean and standard error were taken; of one sample, nothing is known
    """
    freedom = samples - 1
    if freedom < 1:
        return math.inf
    normal = errors * (8 * freedom + 3) / (8 * freedom + 1)
    return math.sqrt(freedom * math.expm1(min(normal * normal / freedom, 700.0)))  # ** would raise OverflowError


@dataclass(frozen=True)
class Returns:
    """Undiscounted returns of whole episodes, in the task's own reward."""

    returns: list[float]
    lengths: list[int]
    costs: list[float] | None = None
    """Undiscounted cost of each episode, where the task has a cost."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation over episodes."""
        return float(np.std(self.returns))

    @property
    def mean_cost(self) -> float | None:
        """Mean cost of an episode."""
        return None if self.costs is None else float(np.mean(self.costs))

    def first(self, episodes: int) -> Returns:
        """Returns of the first episodes."""
        costs = None if self.costs is None else self.costs[:episodes]
        return Returns(self.returns[:episodes], self.lengths[:episodes], costs)

    @property
    def standard_error(self) -> float:
        """Of the mean; 0 where single episodes were not kept."""
        return self.std / math.sqrt(len(self.returns)) if self.returns else 0.0

    def is_below(self, other: Returns) -> bool:
        """Whether the mean is lower than another by more than two standard errors of the difference, or as many more
        as few episodes call for.

        A single episode tells nothing of its error: then the answer is no.
        """
        episodes = min(len(self.returns), len(other.returns))
        if episodes < 2:
            return False
        error = math.hypot(self.standard_error, other.standard_error)
        return self.mean < other.mean - in_few_samples(2, episodes) * error

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as in ``results.json``."""
        data = {"mean": self.mean, "std": self.std, "returns": self.returns, "lengths": self.lengths}
        return data if self.costs is None else data | {"mean_cost": self.mean_cost, "costs": self.costs}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Returns:
        """Read what :meth:`as_dict` returned."""
        return cls(data["returns"], data["lengths"], data.get("costs"))


class ReturnSummary(Returns):
    """Mean and standard deviation of returns whose single episodes were not kept.

    ``returns`` and ``lengths`` are empty.

    :param data: ``mean``, ``std`` if it was kept, and ``mean_cost`` if the task has a cost
    """

    def __init__(self, data: Mapping[str, float]) -> None:
        super().__init__([], [])
        object.__setattr__(self, "_data", dict(data))

    @property
    def mean(self) -> float:
        return self._data["mean"]

    @property
    def std(self) -> float:
        return self._data.get("std", float("nan"))

    @property
    def mean_cost(self) -> float | None:
        return self._data.get("mean_cost")

    def as_dict(self) -> dict[str, Any]:
        return dict(self._data)

    _data: dict[str, float]
