"""Tasks with physics that can be shifted. The import registers them with Gymnasium as ``daft_rl/NAME-v0``."""

from daft_rl.envs.factory import make, make_vec
from daft_rl.envs.registry import levels, read_shift, register_tasks, task_names
from daft_rl.envs.shift import Shift

__all__ = ["Shift", "levels", "make", "make_vec", "read_shift", "task_names"]

register_tasks()
