"""Domain randomization: a shift whose numbers differ between the environments of a batch.

``{"gravity": {"low": 0.5, "high": 2.0}}`` in place of ``{"gravity": 1.0}`` draws gravity uniformly, one value for each
environment, which keeps it in all episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_args, get_type_hints

import numpy as np

from daft_rl.envs.shift import Shift
from daft_rl.errors import TaskError

__all__ = ["BANK", "ShiftRange", "draw_shifts", "read_shift_or_range"]

BANK = 64
"""At most this many different shifts are drawn for a batch; its environments take turns."""


@dataclass(frozen=True)
class ShiftRange:
    """A distribution of shifts: numbers are drawn uniformly between those of two shifts, independently."""

    low: Shift
    high: Shift

    def changes(self) -> dict[str, Any]:
        """The fields that change something, in the notation in which they are given."""
        low, high = self.low.changes(), self.high.changes()
        names = [field.name for field in fields(self.low) if field.name in low or field.name in high]
        return {name: _notation(getattr(self.low, name), getattr(self.high, name)) for name in names}

    def replace(self, **values: Any) -> ShiftRange:
        """The distribution with other values of some fields."""
        return ShiftRange(replace(self.low, **values), replace(self.high, **values))


def read_shift_or_range(shift_type: type[Shift], values: Mapping[str, Any]) -> Shift | ShiftRange:
    """Build a shift, or a distribution if a number is given as ``{"low": 0.5, "high": 2.0}``.

    :param shift_type: the simulator's dataclass of changes
    :param values: field -> value
    :raises TaskError: a field does not exist, a value is impossible, or ``low`` lies above ``high``
    """
    if not isinstance(values, Mapping):
        return shift_type.from_dict(values)  # raises
    hints = get_type_hints(shift_type)
    numeric = {name for name in values if {int, float} & _parts(hints.get(str(name)))}
    low, high = (
        {name: _side(value, side) if name in numeric else value for name, value in values.items()}
        for side in ("low", "high")
    )
    if low == high:
        return shift_type.from_dict(low)
    found = ShiftRange(shift_type.from_dict(low), shift_type.from_dict(high))
    for name in numeric:
        _check(name, getattr(found.low, name), getattr(found.high, name))
    return found


def widen_shift(shift: Shift | ShiftRange, shift_type: type[Shift]) -> Shift | ShiftRange:
    """The same changes as a shift of a derived class."""
    if isinstance(shift, ShiftRange):
        return ShiftRange(*(shift_type.from_dict(vars(side)) for side in (shift.low, shift.high)))
    return shift_type.from_dict(vars(shift))


def draw_shifts(shift: Shift | ShiftRange, count: int, seed: int = 0) -> list[Shift]:
    """Draw shifts from a distribution. A plain shift is drawn as it is.

    :param count: how many; more of them begin with the same ones
    :param seed: batches for training and for evaluation take the same one, so they play the same shifts
    """
    if isinstance(shift, Shift):
        return [shift] * count
    return [_draw(shift, np.random.default_rng((seed, i))) for i in range(count)]


def _draw(shift: ShiftRange, generator: np.random.Generator) -> Shift:
    hints = get_type_hints(type(shift.low))
    values = {
        field.name: _between(
            getattr(shift.low, field.name),
            getattr(shift.high, field.name),
            float not in _parts(hints[field.name]),
            generator,
        )
        for field in fields(shift.low)
    }
    return type(shift.low)(**values)


def _between(low: Any, high: Any, whole: bool, generator: np.random.Generator) -> Any:
    """A value between two, where they differ."""
    if low == high:
        return low
    if isinstance(low, Mapping):
        return {key: _between(low[key], high[key], whole, generator) for key in low}
    if isinstance(low, tuple):
        return tuple(_between(one, other, whole, generator) for one, other in zip(low, high, strict=True))
    return int(generator.integers(low, high + 1)) if whole else float(generator.uniform(low, high))


def _parts(hint: Any) -> set[Any]:
    """A type and the types of which it is composed."""
    return {hint}.union(*(_parts(part) for part in get_args(hint)))


def _is_range(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"low", "high"}


def _side(value: Any, side: str) -> Any:
    """A value with ``low`` or ``high`` in place of every range."""
    if _is_range(value):
        return value[side]
    if isinstance(value, Mapping):
        return {key: _side(item, side) for key, item in value.items()}
    return [_side(item, side) for item in value] if isinstance(value, list | tuple) else value


def _notation(low: Any, high: Any) -> Any:
    """The opposite of :func:`_side`."""
    if low == high:
        return low
    if isinstance(low, Mapping):
        return {key: _notation(low[key], high[key]) for key in low}
    if isinstance(low, tuple):
        return [_notation(one, other) for one, other in zip(low, high, strict=True)]
    return {"low": low, "high": high}


def _check(name: str, low: Any, high: Any) -> None:
    """Check that a range begins below its end.

    :raises TaskError: it does not
    """
    if isinstance(low, Mapping):
        for key in low:
            _check(f"{name}.{key}", low[key], high[key])
    elif isinstance(low, tuple):
        for one, other in zip(low, high, strict=True):
            _check(name, one, other)
    elif low != high and (low is None or high is None or low > high):
        raise TaskError(f"shift.{name}: expected low <= high, got low {low!r} and high {high!r}.")
