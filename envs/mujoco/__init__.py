"""Gymnasium's MuJoCo tasks (v5): their shift, their environments, and what they compute for a whole batch."""

from daft_rl.envs.mujoco.shift import MujocoShift

__all__ = ["MujocoShift"]
