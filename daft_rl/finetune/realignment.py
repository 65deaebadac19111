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
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from torch import Tensor

from daft_rl.batchnorm import batchnorm_layers
from daft_rl.errors import MethodError
from daft_rl.policy.networks import Networks
from daft_rl.rollout.evaluation import visit

__all__ = ["Realignment", "known_range", "realign"]

TURNS = 4
"""The source, and three corrections, each of means that the one before led to."""
SURE = 3.0
"""Standard errors by which returns have to rise; the best of three is compared."""

Correction = dict[str, tuple[Tensor, Tensor]]
"""For each place that normalizes: which entries take other means, and means of all."""


@dataclass(frozen=True)
class Realignment:
    """What came of it."""

    inputs: int
    """Entries of an observation."""
    moved: int
    """Those whose means are the target's now; 0 where that did not raise the reward."""
    before: float
    """Return of the source over the first steps of an episode, divided by their number."""
    after: float
    """That of the policy with the best means, taken over or not."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class _Watch(VecEnvWrapper):
    """Adds up the observations that the policy acts on, and the rewards of each environment's first episode: one that
    is over gets nothing further, be it that failing early or reaching a goal early is what matters."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.returns, self.going, self.steps = np.zeros(venv.num_envs), np.ones(venv.num_envs, dtype=bool), 0
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
        self.returns += rewards * self.going
        self.going &= ~dones
        self.steps += 1
        return self.now, rewards, dones, infos


class _Layers:
    """The BatchNorm layers on the observation, and the range that the source knows there."""

    def __init__(self, model: BaseAlgorithm, size: int) -> None:
        self.networks, self.layers = Networks(model.policy), batchnorm_layers(model.policy)
        reading = self.networks.first_layers(size)
        self.online = {name: online for name, online in reading.items() if name in self.layers}
        self.own = {name: self.layers[name].mean.double().clone() for name in self.online}
        self.source = {name: self.own[name] for name, online in self.online.items() if name == online}
        self.spread = {name: (self.layers[name].var.double() + self.layers[name].eps).sqrt() for name in self.source}

    def measure(self, visited: tuple[Any, np.ndarray], watch: _Watch) -> dict[str, Tensor]:
        """Mean inputs at what the policy visited."""
        return {name: at.mean for name, at in self.networks.measure(self.networks.batches(*visited)).items()}

    def apply(self, correction: Correction) -> None:
        """Take some means over, in target networks too; all others are as they were."""
        for name, online in self.online.items():
            own = self.own[name]
            far, means = correction.get(online, (torch.zeros_like(own, dtype=torch.bool), own))
            self.layers[name].mean.copy_(torch.where(far, means, own))


class _Wrapper:
    """``VecNormalize``, likewise. It clips, so that means are those of what came before it."""

    def __init__(self, normalizer: VecNormalize) -> None:
        statistics: Any = normalizer.obs_rms
        mean, var = (torch.from_numpy(part.copy()) for part in (statistics.mean, statistics.var))
        self.statistics = statistics
        self.source = {"observation": mean}
        self.spread = {"observation": (var + normalizer.epsilon).sqrt()}

    def measure(self, visited: tuple[Any, np.ndarray], watch: _Watch) -> dict[str, Tensor]:
        return {"observation": torch.from_numpy(watch.observations / watch.steps)}

    def apply(self, correction: Correction) -> None:
        own = self.source["observation"]
        far, means = correction.get("observation", (torch.zeros_like(own, dtype=torch.bool), own))
        self.statistics.mean = torch.where(far, means, own).numpy().copy()


def known_range(model: BaseAlgorithm, beyond: float) -> _Layers | _Wrapper:
    """Where the range of inputs that the source knows is kept: in ``VecNormalize``, or else in BatchNorm layers.

    :param model: any SB3 algorithm object
    :param beyond: ``method.realign``, for the message
    :raises MethodError: observations are no vectors of numbers, or nothing normalizes them
    """
    space, normalizer = model.observation_space, model.get_vec_normalize_env()
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        known = _Wrapper(normalizer) if normalizer and normalizer.norm_obs else _Layers(model, space.shape[0])
        if known.source:
            return known
    raise MethodError(
        f"method.realign={beyond}: neither VecNormalize nor a BatchNorm layer on the observation, {space}, so what "
        "range the source knows is not known. Use method.realign=null."
    )


@torch.no_grad()
def realign(model: BaseAlgorithm, venv: VecEnv, steps: int, seed: int, beyond: float) -> Realignment:
    """Give what normalizes the observation the target's means of inputs far from the source's, in place.

    The policy visits states of the target, the means are taken over, and again from where that leads. The best of all
    is kept if its returns are above the source's by more than three standard errors over the environments (with one
    environment: at all). Returns are those of ``steps / 4 / num_envs`` steps, without costs: what comes later in an
    episode is not seen.

    :param model: any SB3 algorithm object whose observations are vectors
    :param venv: the target, an environment of raw observations and rewards
    :param steps: target steps in all
    :param seed: environment ``i`` starts from ``seed + i``, every time
    :param beyond: how many of the source's standard deviations away the mean of an input has to be
    :return: how many inputs were moved, and the returns
    :raises MethodError: see :func:`known_range`
    """
    known = known_range(model, beyond)
    size = model.observation_space.shape[0]  # type: ignore[index]
    tried: list[tuple[np.ndarray, Correction]] = []
    correction: Correction = {}
    for _ in range(TURNS):
        known.apply(correction)
        watch = _Watch(venv)
        means = known.measure(visit(model, watch, -(-steps // TURNS), seed), watch)
        tried.append((watch.returns / watch.steps, correction))
        far = {name: (means[name] - own).abs() / known.spread[name] > beyond for name, own in known.source.items()}
        for entries in far.values():
            entries[size:] = False  # a critic's layer may go on with the action
        correction = {name: (entries, means[name]) for name, entries in far.items()}
    returns, correction = max(tried, key=lambda turn: turn[0].mean())
    gain = returns - tried[0][0]
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    if gain.mean() <= SURE * error:
        correction = {}
    known.apply(correction)
    moved = max((int(entries.sum()) for entries, _ in correction.values()), default=0)
    return Realignment(size, moved, float(tried[0][0].mean()), float(returns.mean()))
