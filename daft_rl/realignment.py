"""Inputs that left the range the source knows, as those of a sensor with an offset: their means are brought back.

Conversion preserves the function, and so whatever an offset did to the policy. Inputs that hardly vary suffer most:
a small offset is many of their standard deviations. Here what normalizes the observation, ``VecNormalize`` or
BatchNorm layers, takes such inputs' means from the target, and nothing else; where that does not clearly raise the
reward, it keeps the source's. This is no part of DAFT (issue #6; measured in benchmarks/README.md).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from torch import Tensor

from daft_rl.anatomy import Networks
from daft_rl.batchnorm import Moments, batchnorm_layers
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


class _Watch(VecEnvWrapper):
    """Adds up the rewards of each environment, and the observations that the policy acts on."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.rewards, self.steps = np.zeros(venv.num_envs), 0
        self.observations = np.zeros(venv.observation_space.shape or ())
        self.now: Any = None

    def reset(self) -> Any:
        self.now = self.venv.reset()
        return self.now

    def step_async(self, actions: np.ndarray) -> None:
        self.observations += self.now.mean(axis=0, dtype=float)
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        self.now, rewards, dones, infos = self.venv.step_wait()
        self.rewards += rewards
        self.steps += 1
        return self.now, rewards, dones, infos


class _Layers:
    """The BatchNorm layers on the observation, and the range that the source knows there."""

    def __init__(self, model: BaseAlgorithm, size: int) -> None:
        self.networks, layers = Networks(model.policy), batchnorm_layers(model.policy)
        reading = [name for name in self.networks.first_layers(size) if name in layers]
        own = {name: layers[name] for name in reading if not self.networks.is_target(name)}
        self.source = {
            name: Moments(layer.mean.double().clone(), layer.var.double().clone()) for name, layer in own.items()
        }
        self.spread = {name: (self.source[name].var + layer.eps).sqrt() for name, layer in own.items()}

    def measure(self, visited: tuple[Any, np.ndarray], watch: _Watch) -> dict[str, Tensor]:
        """Mean inputs at what the policy visited."""
        return {name: at.mean for name, at in self.networks.measure(self.networks.batches(*visited)).items()}

    def apply(self, moments: dict[str, Moments]) -> None:
        """Normalize by these."""
        self.networks.apply(moments, preserve_function=False)


class _Wrapper:
    """``VecNormalize``, likewise. It clips, so that means are those of what came before it."""

    def __init__(self, normalizer: VecNormalize) -> None:
        statistics: Any = normalizer.obs_rms
        mean, var = (torch.from_numpy(part.copy()) for part in (statistics.mean, statistics.var))
        self.statistics = statistics
        self.source = {"observation": Moments(mean, var)}
        self.spread = {"observation": (var + normalizer.epsilon).sqrt()}

    def measure(self, visited: tuple[Any, np.ndarray], watch: _Watch) -> dict[str, Tensor]:
        return {"observation": torch.from_numpy(watch.observations / watch.steps)}

    def apply(self, moments: dict[str, Moments]) -> None:
        self.statistics.mean = moments["observation"].mean.numpy().copy()


@torch.no_grad()
def realign(model: BaseAlgorithm, venv: VecEnv, steps: int, seed: int, beyond: float) -> Realignment:
    """Give what normalizes the observation the target's means of inputs far from the source's, in place.

    That is ``VecNormalize`` where it normalizes observations, else the BatchNorm layers that read them. The policy
    visits states of the target, the means are taken over, and again from where that leads. The best of all is kept if
    its rewards are above the source's by more than two standard errors over the environments (with one environment: at
    all).

    :param model: any SB3 algorithm object whose observations are vectors
    :param venv: the target, an environment of raw observations and rewards
    :param steps: target steps in all
    :param seed: environment ``i`` starts from ``seed + i``, every time
    :param beyond: how many of the source's standard deviations away the mean of an input has to be
    :return: how many inputs were moved, and the rewards
    :raises MethodError: observations are no vectors, or nothing normalizes them
    """
    shape, normalizer = model.observation_space.shape, model.get_vec_normalize_env()
    known: _Layers | _Wrapper | None = None
    if shape and len(shape) == 1:
        known = _Wrapper(normalizer) if normalizer and normalizer.norm_obs else _Layers(model, shape[0])
    if not shape or known is None or not known.source:
        raise MethodError(
            f"method.realign={beyond}: neither VecNormalize nor a BatchNorm layer on the observation, "
            f"{model.observation_space}, so what range the source knows is not known. Use method.realign=null."
        )
    own = slice(shape[0])  # a critic's layer may go on with the action
    tried: list[tuple[np.ndarray, dict[str, Moments], int]] = []
    moments, moved = known.source, 0
    for _ in range(TURNS):
        known.apply(moments)
        watch = _Watch(venv)
        means = known.measure(visit(model, watch, -(-steps // TURNS), seed), watch)
        tried.append((watch.rewards / watch.steps, moments, moved))
        moments, moved = {}, 0
        for name, at in known.source.items():
            far = torch.zeros_like(at.mean, dtype=torch.bool)
            z = (means[name] - at.mean) / known.spread[name]
            far[own] = z[own].abs() > beyond
            moments[name] = Moments(torch.where(far, means[name], at.mean), at.var)
            moved = max(moved, int(far.sum()))
    rewards, moments, moved = max(tried, key=lambda turn: turn[0].mean())
    gain = rewards - tried[0][0]
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    if gain.mean() <= SURE * error:
        moments, moved = known.source, 0
    known.apply(moments)
    return Realignment(shape[0], moved, float(tried[0][0].mean()), float(rewards.mean()))
