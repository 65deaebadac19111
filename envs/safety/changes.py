"""How a shift changes Safety-Gymnasium's task objects and compiled models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mujoco

from daft_rl.envs.mujoco.model import element_names, scale_model
from daft_rl.envs.safety.shift import SafetyShift
from daft_rl.envs.shift import resolve_pattern
from daft_rl.errors import TaskError

__all__ = ["hazard_changer", "model_changer"]


def hazard_changer(shift: SafetyShift) -> Callable[[Any], None]:
    """A function that changes number and size of the hazards of the package's task object.

    It raises :class:`~daft_rl.errors.TaskError` if the task has no hazards, or if hazards could reach the agent at the
    start.
    """

    def change_hazards(task: Any) -> None:
        if shift.hazards is None and shift.hazard_size == 1.0:
            return
        if not hasattr(task, "hazards"):
            raise TaskError(f"shift.hazards and shift.hazard_size: {type(task).__name__} has no hazards.")
        if shift.hazards is not None:
            task.hazards.num = shift.hazards
        size, room = task.hazards.size * shift.hazard_size, task.hazards.keepout + task.agent.keepout
        if size > room:
            raise TaskError(
                f"shift.hazard_size={shift.hazard_size:g}: hazards of radius {size:g} could reach the agent at the "
                f"start, around which {room:g} is kept free. At most {room / task.hazards.size:.3g} is possible."
            )
        task.hazards.size = size

    return change_hazards


def model_changer(shift: SafetyShift) -> Callable[[mujoco.MjModel], None] | None:
    """A function that changes a compiled model, in place; ``None`` if the shift leaves the physics as they are."""
    if all(getattr(shift, name) == 1.0 for name in ("mass", "damping", "gear", "floor_friction")):
        return None

    def shift_safety_model(model: mujoco.MjModel) -> None:
        bodies = element_names(model, mujoco.mjtObj.mjOBJ_BODY, model.nbody)
        root = bodies.index("agent") if "agent" in bodies else 1
        robot = [name for i, name in enumerate(bodies) if model.body_rootid[i] == root]
        if shift.floor_friction != 1.0:  # without priority a contact takes the larger friction, so less had no effect
            model.geom("floor").priority = 1
        scale_model(
            model,
            mass=resolve_pattern("mass", shift.mass, robot),
            damping=shift.damping,
            gear=shift.gear,
            friction={"floor": shift.floor_friction},
        )

    return shift_safety_model
