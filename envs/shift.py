"""What a shift is: a small validated dataclass of changes to a task.

Each simulator's file derives its own dataclass from :class:`Shift` and says how the changes are applied.
A value is either one number for everything, or a mapping from name patterns to numbers
(``{"hip_*": 0.2}``, shell-style wildcards).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from daft_rl.errors import TaskError

__all__ = ["Scale", "Shift", "check_number", "resolve_pattern"]

Scale = float | Mapping[str, float]
"""A factor for all elements, or factors by name pattern."""


def resolve_pattern(field: str, scale: Scale, names: Iterable[str]) -> dict[str, float]:
    """Say which element gets which factor.

    :param field: the shift's field, for the error message
    :param scale: one factor, or factors by name pattern; where several patterns fit, their factors multiply
    :param names: the names that exist
    :return: name -> factor, only for names whose factor is not 1
    :raises TaskError: a pattern that fits no name
    """
    names = list(names)
    if not isinstance(scale, Mapping):
        return {name: float(scale) for name in names} if scale != 1.0 else {}
    factors: dict[str, float] = {}
    for pattern, factor in scale.items():
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise TaskError(f"shift.{field}: no name fits '{pattern}'. What exists: {', '.join(sorted(set(names)))}.")
        for name in matching:
            factors[name] = factors.get(name, 1.0) * float(factor)
    return {name: factor for name, factor in factors.items() if factor != 1.0}


def check_number(field: str, value: Any, minimum: float | None, exclusive: bool = False) -> float:
    """A finite number within its bound.

    :param field: the shift's field, for the error message
    :param value: what was given
    :param minimum: the least value that is possible, or ``None``
    :param exclusive: whether ``minimum`` itself is impossible too
    :raises TaskError: it is none
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TaskError(f"shift.{field}: expected a finite number, got {value!r}.")
    if minimum is not None and (value <= minimum if exclusive else value < minimum):
        bound = f"above {minimum:g}" if exclusive else f"at least {minimum:g}"
        raise TaskError(f"shift.{field}: {value!r} is impossible, it must be {bound}.")
    return float(value)


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Changes that every simulator knows: of what the agent observes and when its actions arrive.

    The default values change nothing. The order is ``observation * scale + offset + noise``.
    """

    observation_noise: float = 0.0
    """Standard deviation of Gaussian noise on every entry, drawn anew each step (observation units)."""
    observation_offset: float = 0.0
    """Standard deviation of a constant offset of every entry, the same in all episodes (observation units)."""
    observation_draw: int = 0
    """Which offset of that standard deviation: 0, 1, 2 and so on are draws that have nothing to do with each other."""
    observation_scale: float = 1.0
    """Factor on every entry."""
    action_delay: int = 0
    """Steps by which actions arrive late; until then the action is zero."""

    def __post_init__(self) -> None:
        check_number("observation_noise", self.observation_noise, 0.0)
        check_number("observation_offset", self.observation_offset, 0.0)
        check_number("observation_scale", self.observation_scale, None)
        for name in ("observation_draw", "action_delay"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise TaskError(f"shift.{name}: expected a whole number >= 0, got {value!r}.")

    def _check_scale(self, field: str, *, positive: bool) -> None:
        """A factor must be a number >= 0 (> 0 with ``positive``), for everything or by pattern."""
        scale = getattr(self, field)
        for name, factor in scale.items() if isinstance(scale, Mapping) else [("", scale)]:
            check_number(f"{field}.{name}" if name else field, factor, 0.0, exclusive=positive)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Shift:
        """Build from plain data.

        :raises TaskError: an unknown field, or an impossible value
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping):
            raise TaskError(f"shift: expected the name of a level or fields and values, got {values!r}.")
        for name in values:
            if name not in known:
                raise TaskError(f"shift.{name} does not exist. What exists: {', '.join(known)}.")
        return cls(**{name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()})

    def changes(self) -> dict[str, Any]:
        """The fields that differ from no shift at all."""
        neutral = type(self)()
        return {
            f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != getattr(neutral, f.name)
        }
