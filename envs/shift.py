"""A shift: a small dataclass of changes to a task that checks its values.

Each simulator derives its own dataclass from :class:`Shift` and applies the changes. A factor is either one number
for every element, or a mapping from name patterns to numbers (``{"hip_*": 0.2}``, shell-style wildcards).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field, StrictFloat

from daft_rl.errors import TaskError
from daft_rl.validation import NonNegative, Number, Positive, Text, Whole, checked

if TYPE_CHECKING:
    from dataclasses import Field as DataclassField

    from typing_extensions import Self

__all__ = ["Component", "PositiveScale", "Scale", "Shift", "resolve_pattern", "vector"]

Scale = NonNegative | dict[Text, NonNegative]
"""A factor of at least 0 for all elements, or factors by name pattern."""
PositiveScale = Positive | dict[Text, Positive]
"""A factor above 0 for all elements, or factors by name pattern."""
Component = Annotated[StrictFloat, Field(allow_inf_nan=False)]
"""An entry of a vector; whole numbers become floats."""


def vector(field: str, expected: str, lengths: Sequence[int]) -> BeforeValidator:
    """A check that a value is a list, a tuple or an array of a certain length.

    :param field: the shift's field, for the error message
    :param expected: what the entries are, for the error message
    :param lengths: the lengths that are possible
    """

    def as_tuple(value: Any) -> tuple[Any, ...]:
        entries = value.tolist() if isinstance(value, np.ndarray) else value
        if not isinstance(entries, list | tuple) or len(entries) not in lengths:
            raise TaskError(f"shift.{field}: expected {expected}, got {value!r}.")
        return tuple(entries)

    return BeforeValidator(as_tuple)


def resolve_pattern(field: str, scale: Scale, names: Iterable[str]) -> dict[str, float]:
    """Find the factor of each element.

    :param field: the shift's field, for the error message
    :param scale: one factor, or factors by name pattern. Where several patterns match, their factors multiply
    :param names: the elements' names
    :return: name -> factor, without names whose factor is 1
    :raises TaskError: a pattern matches no name
    """
    names = list(names)
    if not isinstance(scale, Mapping):
        return {name: float(scale) for name in names} if scale != 1.0 else {}
    factors: dict[str, float] = {}
    for pattern, factor in scale.items():
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise TaskError(
                f"shift.{field}: '{pattern}' matches no name. What exists: {', '.join(sorted(set(names)))}."
            )
        for name in matching:
            factors[name] = factors.get(name, 1.0) * float(factor)
    return {name: factor for name, factor in factors.items() if factor != 1.0}


@checked(TaskError, "shift")
class Shift:
    """Changes that work with every simulator: of what the agent observes and of when its actions arrive.

    The default values change nothing. Observations become ``observation * scale + offset + noise``.
    """

    if TYPE_CHECKING:  # for `fields`, `replace` and `asdict`, which expect it of a dataclass
        __dataclass_fields__: ClassVar[dict[str, DataclassField[Any]]]

    observation_noise: NonNegative = 0.0
    """Standard deviation of Gaussian noise on every entry, drawn anew each step (observation units)."""
    observation_offset: NonNegative = 0.0
    """Standard deviation of a constant offset of every entry, the same in all episodes (observation units)."""
    observation_draw: Whole = 0
    """Which offset of that standard deviation: 0, 1, 2 and so on are independent draws."""
    observation_scale: Number = 1.0
    """Factor on every entry."""
    action_delay: Whole = 0
    """Number of steps by which actions arrive late. Zeros arrive until then."""
    missing_sensors: tuple[Text, ...] = ()
    """Entries of the observation that are gone, by name or pattern: ``["torso.force*"]``. The names are those that
    ``python -m daft_rl.correspond`` prints."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a shift from plain data.

        :param values: field -> value
        :raises TaskError: a field does not exist, or a value is impossible
        """
        if not isinstance(values, Mapping):
            raise TaskError(f"shift: expected the name of a level or fields and values, got {values!r}.")
        return cls(**{str(name): v.item() if isinstance(v, np.generic) else v for name, v in values.items()})

    @classmethod
    def fields_of_body(cls) -> tuple[str, ...]:
        """The fields that change which entries observations and actions have."""
        return ("missing_sensors",)

    def changes(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        unshifted = type(self)()
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(unshifted, name)}
