"""Names of the entries of robosuite's observations and actions."""

from __future__ import annotations

from typing import Any

import numpy as np

from daft_rl.envs.names import indexed

__all__ = ["action_names", "observation_names"]

MODALITIES = ("object", "robot0_proprio")
"""What the observation joins, in this order."""
MOVES = ("move.x", "move.y", "move.z", "turn.x", "turn.y", "turn.z")
"""What the controller takes for an arm, in the frame of its base."""


def observation_names(sim_env: Any) -> tuple[str, ...]:
    """Names of robosuite's observables, with the place in each: ``door_pos[0]``, ``robot0_joint_pos[3]``.

    A gripper's entries are named after its joints, because two kinds of grippers have nothing in common.

    :param sim_env: robosuite's environment, after a reset
    """
    gripper = sim_env.robots[0].gripper["right"]
    of_gripper = {
        f"robot0_gripper_{kind}": [f"{joint}.{kind}" for joint in gripper.joints] for kind in ("qpos", "qvel")
    }
    names: list[str] = []
    for modality in MODALITIES:
        for name, observable in sim_env._observables.items():
            if observable.modality == modality and observable.is_enabled() and observable.is_active():
                names += of_gripper.get(name) or indexed(name, np.size(observable.obs))
    return tuple(names)


def action_names(sim_env: Any) -> tuple[str, ...]:
    """Names of what an action sets: the moves of the hand, and the gripper."""
    composite = sim_env.robots[0].composite_controller
    names: list[str] = []
    for part, (first, last) in composite._action_split_indexes.items():
        names += MOVES if part == "right" else indexed("gripper", last - first)
    return tuple(names)
