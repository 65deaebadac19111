"""What a shift of Gymnasium's MuJoCo tasks can change."""

from __future__ import annotations

from typing import Annotated

from daft_rl.envs.registered import RegisteredShift
from daft_rl.envs.shift import Component, PositiveScale, Scale, Shift, vector
from daft_rl.errors import TaskError
from daft_rl.validation import NonNegative, Number, Text, checked

__all__ = ["MujocoShift", "RegisteredMujocoShift"]


@checked(TaskError, "shift")
class MujocoShift(Shift):
    """A change of a MuJoCo model. Factors are relative to the unshifted task; 1 changes nothing.

    Patterns match the model's own names: bodies for ``mass`` and ``without``, geoms for ``friction`` and
    ``limb_size``, joints for ``damping``, ``gear`` and ``joint_range``. ``configs/levels.yaml`` names the levels of
    ODRL (Lyu et al., NeurIPS 2024, Datasets and Benchmarks).
    """

    gravity: Number = 1.0
    """Factor on gravity."""
    friction: Scale = 1.0
    """Factor on all three friction coefficients of geoms. A contact takes the larger of its two geoms."""
    mass: PositiveScale = 1.0
    """Factor on mass and inertia of bodies."""
    damping: Scale = 1.0
    """Factor on the damping of joints."""
    gear: Scale = 1.0
    """Factor on the gear (strength) of the actuator on a joint."""
    joint_range: Scale = 1.0
    """Factor on the range of limited joints, about their rest position."""
    limb_size: PositiveScale = 1.0
    """Factor on length and radius of geoms. An attached body moves along with the nearest geom. Masses follow, except
    that HalfCheetah's file fixes the total mass at 14 kg: there, the rest of the body gets heavier as limbs shrink."""
    without: tuple[Text, ...] = ()
    """Bodies that are cut off with all that hangs on them and the motors that drive it. Observations and actions get
    shorter."""
    density: NonNegative = 0.0
    """Density of the medium (kg/m^3; air 1.2, water 1000). Without it wind has no effect."""
    wind: Annotated[tuple[Component, ...], vector("wind", "three velocities (m/s)", (3,))] = (0.0, 0.0, 0.0)
    """Velocity of the medium (m/s) along x, y, z."""

    @classmethod
    def fields_of_body(cls) -> tuple[str, ...]:
        """See :meth:`Shift.fields_of_body`."""
        return ("without", *super().fields_of_body())

    def __post_init__(self) -> None:
        if any(self.wind) and not self.density:
            raise TaskError("shift.wind has no effect in a vacuum: set shift.density too (air 1.2 kg/m^3).")


@checked(TaskError, "shift")
class RegisteredMujocoShift(MujocoShift, RegisteredShift):
    """A change of a registered environment: of its MuJoCo model, of its constructor's keywords, and by wrappers."""
