"""Shifts of observations, applied to a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daft_rl.envs.wrappers import MissingSensors, ObservationShift
from daft_rl.errors import TaskError

__all__ = ["BatchedObservationShift", "batch_observation_shifts", "kept_entries"]


class BatchedObservationShift:
    """Applies :class:`ObservationShift` to the rows of a batch whose environments have one.

    :param rows: row -> its wrapper; all of them with noise, or all without
    """

    def __init__(self, rows: dict[int, ObservationShift]) -> None:
        self.rows, shifts = list(rows), list(rows.values())
        self.scale = np.array([[shift.scale] for shift in shifts])
        self.offset = np.array([shift.offset for shift in shifts])
        self.sigma = np.array([[shift.noise] for shift in shifts])
        self.noisy = bool(self.sigma.any())
        self.noise = np.empty_like(self.offset)
        self.cores = [shift.unwrapped for shift in shifts]

    def __call__(self, observation: NDArray[Any]) -> None:
        """Shift in place.

        :param observation: shape ``(num_envs, observation size)``
        """
        shifted = observation[self.rows] * self.scale + self.offset
        if self.noisy:
            for core, noise in zip(self.cores, self.noise, strict=True):
                core.np_random.standard_normal(out=noise)
            shifted += self.sigma * self.noise
        observation[self.rows] = shifted


def batch_observation_shifts(stacks: Sequence[list[Any]]) -> list[BatchedObservationShift]:
    """Group the :class:`ObservationShift` wrappers that can be applied at once.

    :param stacks: the wrappers of each environment, outermost first
    :return: in the order of application, from the inside out
    """
    shifts = [[wrapper for wrapper in reversed(stack) if isinstance(wrapper, ObservationShift)] for stack in stacks]
    groups = []
    for depth in zip_longest(*shifts):
        rows = {i: shift for i, shift in enumerate(depth) if shift is not None}
        for noisy in (False, True):
            group = {i: shift for i, shift in rows.items() if bool(shift.noise) is noisy}
            groups += [BatchedObservationShift(group)] if group else []
    return groups


def kept_entries(stacks: Sequence[list[Any]]) -> NDArray[Any] | None:
    """The entries of the tasks' observations that :class:`MissingSensors` leave; ``None`` if all are there.

    :param stacks: the wrappers of each environment, outermost first
    :raises TaskError: environments lack different entries, or one of them shifts what is left
    """
    kept = [_kept_by(stack) for stack in stacks]
    if len(set(kept)) > 1:
        raise TaskError("Environments of one batch must observe the same, and they lack different sensors.")
    return None if kept[0] is None else np.array(kept[0])


def _kept_by(stack: list[Any]) -> tuple[int, ...] | None:
    kept: tuple[int, ...] | None = None
    for wrapper in reversed(stack):
        if isinstance(wrapper, MissingSensors):
            kept = tuple(i if kept is None else kept[i] for i in wrapper.kept.tolist())
        elif isinstance(wrapper, ObservationShift) and kept is not None:
            raise TaskError(
                "Threads cannot step an ObservationShift around MissingSensors. Put it inside, or use vec='dummy'.",
                arguments=("vec",),
            )
    return kept
