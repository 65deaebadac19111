"""The state of every generator of random numbers that a learning process draws from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

__all__ = ["RandomState"]


class RandomState:
    """Those of Python, NumPy and PyTorch, which SB3 draws from, and of the space from which it draws random actions.

    Environments are not among them: they go on by :class:`daft_rl.envs.replay.Replayable`.

    :param model: any SB3 algorithm object
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        self.model = model

    def state_dict(self) -> dict[str, Any]:
        """What they need to go on."""
        drawn = self.model.action_space._np_random
        on_gpu = self.model.device.type == "cuda"
        return {
            "python": random.getstate(),
            "numpy": np.random.get_state(legacy=False),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.model.device) if on_gpu else None,
            "actions": None if drawn is None else drawn.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None and self.model.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.model.device)
        if state["actions"] is not None:
            self.model.action_space.np_random.bit_generator.state = state["actions"]
