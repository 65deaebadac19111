"""Floating-point operations of matrix products that one gradient step needs.

A product of matrices of ``rows x m`` and ``m x n`` counts ``2 * rows * m * n``. Only what the algorithm needs counts:
no gradients of weights that are not updated, and none of inputs that nothing depends on. Implementations compute up to
a third more. Activations, BatchNorm, losses and optimizers are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

__all__ = ["BATCH", "ENVIRONMENTS", "HIDDEN", "POLICY_DELAY", "operations"]

HIDDEN, BATCH = (256, 256), 256
ENVIRONMENTS = {
    "SAC": "HalfCheetah-v5",
    "TQC": "HalfCheetah-v5",
    "CrossQ": "HalfCheetah-v5",
    "PPO": "HalfCheetah-v5",
    "TD3": "HalfCheetah-v5",
    "DQN": "CartPole-v1",
}
SIZES = {"HalfCheetah-v5": (17, 6), "CartPole-v1": (4, 2)}
"""Length of observations, and of actions or their number."""
POLICY_DELAY = {"TD3": 2, "CrossQ": 3}
"""Gradient steps per update of the actor; 1 for others."""
QUANTILES = 25


@dataclass(frozen=True)
class Network:
    """Linear layers with these numbers of units, the input first."""

    units: tuple[int, ...]

    def forward(self, rows: int) -> int:
        """The output."""
        return 2 * rows * sum(m * n for m, n in pairwise(self.units))

    def back(self, rows: int, inputs: int = 0) -> int:
        """Gradients of hidden units, and of the first ``inputs`` inputs, without those of weights."""
        return 2 * rows * sum(m * n for m, n in pairwise((inputs, *self.units[1:])))

    def trained(self, rows: int) -> int:
        """Output, gradients of hidden units, and gradients of weights, which cost as much as the output."""
        return 2 * self.forward(rows) + self.back(rows)


def operations(algorithm: str, batchnorm: bool = False) -> float:
    """Operations of a gradient step (of PPO: of a minibatch), the mean over updates with and without an actor's.

    :param algorithm: one of :data:`ENVIRONMENTS`
    :param batchnorm: whether there is BatchNorm. It counts in CrossQ only, where the critics' losses depend on the next
        states through the statistics of the batch
    """
    observation, action = SIZES[ENVIRONMENTS[algorithm]]
    if algorithm == "DQN":
        network = Network((observation, *HIDDEN, action))
        return network.trained(BATCH) + network.forward(BATCH)
    if algorithm == "PPO":
        return sum(Network((observation, *HIDDEN, outputs)).trained(BATCH) for outputs in (action, 1))
    actor = Network((observation, *HIDDEN, action if algorithm == "TD3" else 2 * action))
    critic = Network((observation + action, *HIDDEN, QUANTILES if algorithm == "TQC" else 1))
    played = 1 if algorithm == "TD3" else 2  # critics that the actor learns from
    targets = actor.forward(BATCH)
    if algorithm == "CrossQ" and batchnorm:
        learning = critic.trained(2 * BATCH)  # of states and next states
    else:
        learning = critic.forward(BATCH) + critic.trained(BATCH)
    acting = actor.trained(BATCH) + played * (critic.forward(BATCH) + critic.back(BATCH, action))
    return targets + 2 * learning + acting / POLICY_DELAY.get(algorithm, 1)
