"""Inputs that left the range the source knows, as those of a sensor with an offset: their means are brought back.

Conversion preserves the function, and so whatever an offset did to the policy. Inputs that hardly vary suffer most:
a small offset is many of their standard deviations. Here the BatchNorm layers on the observation take such inputs'
means from the target, and nothing else; where that does not clearly raise the reward, they keep the source's. This
is no part of DAFT (issue #6; measured in benchmarks/README.md).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from daft_rl.anatomy import Networks
from daft_rl.batchnorm import BatchNormLayer, Moments, batchnorm_layers
from daft_rl.errors import MethodError
from daft_rl.evaluation import visit

__all__ = ["Realignment", "realign"]

TURNS = 4
"""The source, and three corrections, each of means that the one before led to."""
SURE = 2.0
"""Standard errors by which the reward has to rise."""


@dataclass(frozen=True)
class Realignment:
    """What came of it."""

    inputs: int
    """Entries of an observation."""
    moved: int
    """Those whose means are the target's now; 0 where that did not raise the reward."""
    before: float
    """Mean reward of a step of the source."""
    after: float
    """That of the policy with the best means, taken over or not."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class _Rewards(VecEnvWrapper):
    """Adds up the rewards of each environment."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.sums, self.steps = np.zeros(venv.num_envs), 0

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.sums += rewards
        self.steps += 1
        return observations, rewards, dones, infos


@torch.no_grad()
def realign(model: BaseAlgorithm, venv: VecEnv, steps: int, seed: int, beyond: float) -> Realignment:
    """Give the BatchNorm layers on the observation the target's means of inputs far from the source's, in place.

    The policy visits states of the target, the means are taken over, and again from where that leads. The best of all
    is kept if its rewards are above the source's by more than two standard errors over the environments (with one
    environment: at all).

    :param model: any SB3 algorithm object whose observations are vectors
    :param venv: the target, an environment of raw observations and rewards
    :param steps: target steps in all
    :param seed: environment ``i`` starts from ``seed + i``, every time
    :param beyond: how many of the source's standard deviations away the mean of an input has to be
    :return: how many inputs were moved, and the rewards
    :raises MethodError: observations are no vectors, or no BatchNorm layer reads them
    """
    shape, networks = model.observation_space.shape, Networks(model.policy)
    layers = batchnorm_layers(model.policy)
    reading = [
        name for name in (networks.first_layers(shape[0]) if shape and len(shape) == 1 else ()) if name in layers
    ]
    if not shape or not reading:
        raise MethodError(
            f"method.realign={beyond}: no BatchNorm layer reads the observation, {model.observation_space}, so what "
            "range the source knows is not known. Use method.realign=null."
        )
    own = slice(shape[0])  # a critic's layer may go on with the action
    source = {name: _moments(layers[name]) for name in reading if not networks.is_target(name)}
    tried: list[tuple[np.ndarray, dict[str, Moments], int]] = []
    means, moved = source, 0
    for _ in range(TURNS):
        networks.apply(means, preserve_function=False)
        counted = _Rewards(venv)
        measured = networks.measure(networks.batches(*visit(model, counted, -(-steps // TURNS), seed)))
        tried.append((counted.sums / counted.steps, means, moved))
        means, moved = {}, 0
        for name, at in source.items():
            far = torch.zeros_like(at.mean, dtype=torch.bool)
            z = (measured[name].mean - at.mean) / (at.var + layers[name].eps).sqrt()
            far[own] = z[own].abs() > beyond
            means[name] = Moments(torch.where(far, measured[name].mean, at.mean), at.var)
            moved = max(moved, int(far.sum()))
    rewards, means, moved = max(tried, key=lambda turn: turn[0].mean())
    gain = rewards - tried[0][0]
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    if gain.mean() <= SURE * error:
        means, moved = source, 0
    networks.apply(means, preserve_function=False)
    return Realignment(shape[0], moved, float(tried[0][0].mean()), float(rewards.mean()))


def _moments(layer: BatchNormLayer) -> Moments:
    mean, var = (tensor.detach().double().clone() for tensor in (layer.mean, layer.var))
    return Moments(mean, var)
