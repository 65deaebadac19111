"""What a shift of robosuite's Door and Wipe can change."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictInt

from daft_rl.envs.shift import Component, Shift, vector
from daft_rl.errors import TaskError
from daft_rl.validation import Count, Flag, NonNegative, Number, Positive, checked

__all__ = ["RobosuiteShift", "check_shift_fits"]

OWN_FIELDS = {
    "Door": ("hinge_damping", "hinge_friction", "door_mass", "latch", "door_offset"),
    "Wipe": ("table_friction", "table_height", "markers", "line_width", "two_clusters"),
}
"""The fields that only one of the tasks has."""
ROBOTS = {"Door": ("Panda", "Sawyer", "UR5e"), "Wipe": ("Panda", "IIWA", "Kinova3", "UR5e")}
"""Arms that can do the task. The observation has the shape of Panda's, but UR5e has a joint less and another gripper.
Sawyer's model collides with itself, which ends a Wipe at once."""


@checked(TaskError, "shift")
class RobosuiteShift(Shift):
    """A change of a robosuite task. Factors are relative to the unshifted task; 1 changes nothing."""

    controller_gain: Positive = 1.0
    """Factor on the stiffness (kp) of the operational space controller. Its damping follows, see ``damping_ratio``."""
    damping_ratio: NonNegative = 1.0
    """Damping ratio of that controller; 1 is critical damping."""
    arm_mass: Positive = 1.0
    """Factor on mass and inertia of the arm's links. The controller compensates it within its motors' limits."""
    arm_damping: NonNegative = 1.0
    """Factor on the damping of the arm's joints. The controller does not compensate it."""
    arm_friction: NonNegative = 1.0
    """Factor on the dry friction of the arm's joints. The controller does not compensate it."""
    robot: Literal["Panda", "Sawyer", "IIWA", "Kinova3", "UR5e"] = "Panda"
    """The arm: in Door ``"Panda"``, ``"Sawyer"`` or ``"UR5e"``, in Wipe ``"Panda"``, ``"IIWA"``, ``"Kinova3"`` or
    ``"UR5e"``."""
    horizon: Count = 500
    """Steps of an episode; robosuite's own default is 1000. Wipe scales its reward by it."""

    hinge_damping: NonNegative = 1.0
    """Door: factor on the damping of the hinge (0.1 Nms/rad)."""
    hinge_friction: NonNegative = 0.0
    """Door: dry friction of the hinge (Nm). The unshifted hinge has none, so this is no factor."""
    door_mass: Positive = 1.0
    """Door: factor on mass (2.4 kg) and inertia of the door leaf."""
    latch: Flag = True
    """Door: whether the handle must be turned first. Without latch there is no reward for turning the handle, and the
    observed angle of the handle is 0."""
    door_offset: Annotated[
        tuple[Component, ...], vector("door_offset", "x, y (m) and optionally yaw (rad)", (2, 3))
    ] = (0.0, 0.0, 0.0)
    """Door: displacement of the point around which the door is placed: x, y (m), and optionally yaw (rad)."""

    table_friction: NonNegative = 1.0
    """Wipe: factor on all three friction coefficients of the table (sliding 0.03)."""
    table_height: Annotated[Number, Field(ge=-0.1, le=0.1)] = 0.0  # the arm starts 0.18 m above the table
    """Wipe: rise of the table (m), from -0.1 to 0.1."""
    markers: Annotated[StrictInt, Field(ge=2)] | None = None
    """Wipe: number of pieces of dirt; ``None`` is robosuite's 100. The reward is scaled by what can be earned."""
    line_width: Annotated[Number, Field(gt=0, le=5)] = 1.0  # the table is no wider
    """Wipe: factor on the width (0.04 m) of the line of dirt, at most 5. It changes how close to the edge dirt may lie,
    and how dirt looks."""
    two_clusters: Flag = False
    """Wipe: two lines of dirt, each with half of the pieces."""

    @classmethod
    def fields_of_body(cls) -> tuple[str, ...]:
        """See :meth:`Shift.fields_of_body`."""
        return ("robot", *super().fields_of_body())

    def __post_init__(self) -> None:
        if len(self.door_offset) == 2:
            object.__setattr__(self, "door_offset", (*self.door_offset, 0.0))


def check_shift_fits(base: str, shift: RobosuiteShift) -> None:
    """Refuse a shift that has no meaning for the task. This does not need robosuite.

    :param base: ``"Door"`` or ``"Wipe"``
    :raises TaskError: another task, a field of the other task, or an arm that the task cannot use
    """
    if base not in OWN_FIELDS:
        raise TaskError(f"Unknown robosuite task '{base}'. What exists: {', '.join(OWN_FIELDS)}.")
    of_other_tasks = {name for task, names in OWN_FIELDS.items() if task != base for name in names}
    foreign = sorted(of_other_tasks & shift.changes().keys())
    if foreign:
        possible = [name for name in RobosuiteShift.__dataclass_fields__ if name not in of_other_tasks]
        given = ", ".join(f"shift.{name}" for name in foreign)
        raise TaskError(f"{given}: does not exist in task '{base}'. What exists there: {', '.join(possible)}.")
    if shift.robot not in ROBOTS[base]:
        raise TaskError(
            f"shift.robot: '{shift.robot}' cannot replace Panda in task '{base}': its observation has another shape, "
            f"or its model collides with itself. What exists there: {', '.join(ROBOTS[base])}."
        )
