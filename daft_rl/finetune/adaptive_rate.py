"""A factor on learning rates that keeps the steps of PPO's updates at a chosen size."""

from __future__ import annotations

from typing import Any

__all__ = ["AdaptiveRate"]

SLOWEST, FASTEST = 1.0e-5, 1.0e-2
"""The factor keeps the learning rate within these."""


class AdaptiveRate:
    """Lowers the rate after updates that moved the policy too far, and raises it after those that hardly moved it.

    The rule and the numbers are those of rsl_rl, with which Isaac Lab learns.

    :param target: KL divergence between the policies before and after an update
    """

    def __init__(self, target: float) -> None:
        self.target, self.factor = target, 1.0

    def adjust(self, divergence: float, rate: float, slowed: float = 1.0) -> None:
        """Adjust the factor after an update.

        :param divergence: the KL divergence of the update
        :param rate: the learning rate without the factor
        :param slowed: what schedules multiply the actor's rate by. The divergence grows with the square of the rate,
            and the target does so too, so that a decay stays a decay
        """
        target = self.target * slowed**2
        if divergence > 2.0 * target:
            self.factor = max(SLOWEST / rate, self.factor / 1.5)
        elif 0.0 < divergence < target / 2.0:
            self.factor = min(FASTEST / rate, self.factor * 1.5)

    def state_dict(self) -> dict[str, Any]:
        """The factor."""
        return {"factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.factor = state["factor"]
