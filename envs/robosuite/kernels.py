"""Arithmetic of robosuite's arm controller, compiled with robosuite's own decorator. Import it after robosuite.

It contains only what a compiler does not change in the last bit: additions, products of single numbers, and calls of
functions that robosuite compiles itself. Products of matrices that robosuite leaves to NumPy stay with NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from robosuite.utils.control_utils import nullspace_torques, orientation_error
from robosuite.utils.numba import jit_decorator

__all__ = ["desired_acceleration", "limited_torques"]


@jit_decorator
def desired_acceleration(
    goal_position: NDArray[Any],
    position: NDArray[Any],
    goal_orientation: NDArray[Any],
    orientation: NDArray[Any],
    velocity: NDArray[Any],
    kp: NDArray[Any],
    kd: NDArray[Any],
) -> NDArray[Any]:
    """Acceleration by springs and dampers, shape ``(6,)``: three translations, three rotations."""
    error = np.empty(6)
    error[:3] = goal_position - position
    error[3:] = orientation_error(goal_orientation, orientation)
    return error * kp - velocity * kd


@jit_decorator
def limited_torques(
    torques: NDArray[Any],
    mass_matrix: NDArray[Any],
    nullspace: NDArray[Any],
    rest: NDArray[Any],
    joint_position: NDArray[Any],
    joint_velocity: NDArray[Any],
    low: NDArray[Any],
    high: NDArray[Any],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Add the torques that pull the joints to ``rest``.

    :return: the sum, and the sum within the motors' limits
    """
    total = torques + nullspace_torques(mass_matrix, nullspace, rest, joint_position, joint_velocity)
    return total, np.minimum(np.maximum(total, low), high)
