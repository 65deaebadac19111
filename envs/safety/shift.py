"""What a shift of Safety-Gymnasium's tasks can change."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictInt

from daft_rl.envs.shift import PositiveScale, Scale, Shift
from daft_rl.errors import TaskError
from daft_rl.validation import NonNegative, Positive, checked

__all__ = ["SafetyShift"]


@checked(TaskError, "shift")
class SafetyShift(Shift):
    """A change of a Safety-Gymnasium task. Factors are relative to the unshifted task; 1 changes nothing.

    Patterns match the model's own names: bodies for ``mass``, joints for ``damping`` and ``gear``.
    """

    mass: PositiveScale = 1.0
    """Factor on mass and inertia of the robot's bodies."""
    damping: Scale = 1.0
    """Factor on the damping of the robot's joints."""
    gear: Scale = 1.0
    """Factor on the gear of actuators, named by their joint or, if they act on a site, by their own name. For motors
    (all of Car, the thrust ``x`` of Point) the gear is the strength. Point's steering ``z`` and Racecar's motors are
    servos: twice the gear halves their target velocity, and Point's steering then oscillates."""
    floor_friction: NonNegative = 1.0
    """Factor on the friction of the floor with everything that touches it. Point slides on joints and does not touch
    the floor: only the objects that it pushes feel the factor."""
    # the package's lidar fails without hazards, and its search for free places takes minutes if there are many
    hazards: Annotated[StrictInt, Field(ge=1, le=30)] | None = None
    """Number of hazards, 1 to 30; ``None`` keeps the task's number."""
    hazard_size: Positive = 1.0
    """Factor on the radius of hazards."""
    level: Annotated[StrictInt, Field(ge=0, le=9)] | None = None
    """Difficulty; ``None`` keeps the task's own. The package has levels 0 to 2. Levels 1 and 2 have observations of the
    same shape."""

    @classmethod
    def fields_of_body(cls) -> tuple[str, ...]:
        """See :meth:`Shift.fields_of_body`."""
        return ("level", *super().fields_of_body())
