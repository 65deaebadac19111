"""Arithmetic of robosuite's arm controller, compiled by robosuite's own means. Import it after robosuite.

Only what a compiler does not change in the last bit: additions, products of single numbers, and calls of what robosuite
compiles itself. Products of matrices that robosuite leaves to NumPy stay with NumPy.
"""

from __future__ import annotations

import numpy as np
from robosuite.utils.control_utils import nullspace_torques, orientation_error
from robosuite.utils.numba import jit_decorator

__all__ = ["desired_acceleration", "limited_torques"]


@jit_decorator
def desired_acceleration(
    goal_position: np.ndarray,
    position: np.ndarray,
    goal_orientation: np.ndarray,
    orientation: np.ndarray,
    velocity: np.ndarray,
    kp: np.ndarray,
    kd: np.ndarray,
) -> np.ndarray:
    """What springs and dampers ask for, shape (6,): three translations, three rotations."""
    error = np.empty(6)
    error[:3] = goal_position - position
    error[3:] = orientation_error(goal_orientation, orientation)
    return error * kp - velocity * kd


@jit_decorator
def limited_torques(
    torques: np.ndarray,
    mass_matrix: np.ndarray,
    nullspace: np.ndarray,
    rest: np.ndarray,
    joint_position: np.ndarray,
    joint_velocity: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Torques with those that pull the joints to ``rest``, and the same within the motors' limits."""
    asked = torques + nullspace_torques(mass_matrix, nullspace, rest, joint_position, joint_velocity)
    return asked, np.minimum(np.maximum(asked, low), high)
