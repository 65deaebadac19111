"""Moving inputs back to the range that the source knows, such as those of a sensor with an offset.

Conversion preserves the function, and with it whatever an offset did to the policy. Inputs that hardly vary suffer
most: a small offset is many of their standard deviations. Realignment gives what normalizes the observation,
``VecNormalize`` or BatchNorm layers, the target's means of such inputs, and changes nothing else. If that does not
clearly raise the reward, the source's means stay. Realignment is no part of DAFT (issue #6; measured in
``benchmarks/README.md``).

The sensors of the source have no offset, so a realigned policy acts there by the source's means: :func:`at_home`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from torch import Tensor

from daft_rl.batchnorm import batchnorm_layers
from daft_rl.errors import MethodError
from daft_rl.policy.anatomy import Anatomy
from daft_rl.policy.networks import Networks
from daft_rl.rollout.evaluation import visit

__all__ = ["OffsetObservations", "Realignment", "at_home", "find_input_range", "realign"]

TRIALS = 4
"""The source, then three corrections. Each one takes the means that the policy of the trial before saw."""
SURE = 3.0
"""Standard errors by which returns have to rise. The best of three corrections is compared."""

Correction = dict[str, tuple[Tensor, Tensor]]
"""For each place that normalizes: which entries take other means, and the means of all entries."""


@dataclass(frozen=True)
class Realignment:
    """What realignment did."""

    inputs: int
    """Entries of an observation."""
    moved: int
    """Entries that have the target's mean now; 0 if that did not raise the reward."""
    before: float
    """Return of the source over the first steps of an episode, divided by their number."""
    after: float
    """Return of the policy with the best means, whether they were kept or not, likewise."""
    offset: dict[str, list[float]] = field(default_factory=dict)
    """What the policy takes the target's sensors to have added: key of the observation (``observation`` for a vector)
    -> an entry for each of its entries. Empty if nothing was moved."""
    moves: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    """For each place that normalizes, how far its means were moved."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {name: value for name, value in vars(self).items() if name != "moves"}


def _parts(whole: Any) -> dict[str, Any]:
    """What belongs to each key of an observation: arrays, spaces, statistics."""
    return whole if isinstance(whole, dict) else {"observation": whole}


class OffsetObservations(VecEnvWrapper):
    """Raw observations with an offset: what a realigned policy would see at home if sensors were the target's.

    :param venv: a batch of raw observations
    :param offset: of a :class:`Realignment`
    """

    def __init__(self, venv: VecEnv, offset: Mapping[str, Any]) -> None:
        super().__init__(venv)
        self.offset = {key: np.asarray(part) for key, part in offset.items()}

    def reset(self) -> Any:
        return self._add(self.venv.reset())

    def step_wait(self) -> Any:
        observations, *rest = self.venv.step_wait()
        return self._add(observations), *rest

    def _add(self, observations: Any) -> Any:
        added = {
            key: (part + self.offset[key]).astype(part.dtype) if key in self.offset else part
            for key, part in _parts(observations).items()
        }
        return added if isinstance(observations, dict) else added["observation"]


class _TrialRecorder(VecEnvWrapper):
    """Adds up the observations that the policy acts on, and the rewards of each environment's first episode.

    Nothing is added after the end of the first episode: whether the policy fails early or reaches a goal early counts.
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.returns, self.in_first = np.zeros(venv.num_envs), np.ones(venv.num_envs, dtype=bool)
        self.steps = 0
        spaces_by_key = _parts(getattr(venv.observation_space, "spaces", venv.observation_space))
        self.observations = {key: np.zeros(space.shape or ()) for key, space in spaces_by_key.items()}
        self.current: Any = None

    def reset(self) -> Any:
        self.current = self.venv.reset()
        return self.current

    def step_async(self, actions: NDArray[Any]) -> None:
        for key, part in _parts(self.current).items():
            self.observations[key] += part.mean(axis=0, dtype=float)
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        self.current, rewards, dones, infos = self.venv.step_wait()
        self.returns += rewards * self.in_first
        self.in_first &= ~dones
        self.steps += 1
        return self.current, rewards, dones, infos


class _BatchNormRange:
    """The input range that BatchNorm layers on the observation know."""

    def __init__(self, model: BaseAlgorithm, size: int) -> None:
        self.networks, self.layers, self.size = Networks(model.policy), batchnorm_layers(model.policy), size
        reading = self.networks.first_layers(size)
        self.online = {name: online for name, online in reading.items() if name in self.layers}
        self.own = {name: self.layers[name].mean.double().clone() for name in self.online}
        self.source = {name: self.own[name] for name, online in self.online.items() if name == online}
        self.spread = {name: (self.layers[name].var.double() + self.layers[name].eps).sqrt() for name in self.source}
        anatomy = Anatomy(model.policy)
        acts = "actor" if any(anatomy.groups[name] for name in anatomy.groups if name.startswith("actor")) else "critic"
        self.acting = [name for name in self.source if anatomy.group_of(f"{name}.").startswith(acts)]

    def moved(self, correction: Correction) -> int:
        """How many entries of the observation a correction moves. Several layers may read the same observation."""
        return max((int(entries.sum()) for entries, _ in correction.values()), default=0)

    def measure(self, visited: tuple[Any, NDArray[Any]], recorder: _TrialRecorder) -> dict[str, Tensor]:
        """Mean inputs of the layers on the states that the policy visited."""
        return {name: at.mean for name, at in self.networks.measure(self.networks.batches(*visited)).items()}

    def apply(self, correction: Correction) -> None:
        """Set the means of a correction, in target networks too. All other means are the source's."""
        for name, online in self.online.items():
            own = self.own[name]
            far, means = correction.get(online, (torch.zeros_like(own, dtype=torch.bool), own))
            self.layers[name].mean.copy_(torch.where(far, means, own))

    def moves(self, correction: Correction) -> dict[str, Tensor]:
        """How far a correction moves the means of each layer, those of target networks among them."""
        return {name: _move(correction.get(online), self.own[name]) for name, online in self.online.items()}

    def offset(self, moves: Mapping[str, Tensor]) -> dict[str, list[float]]:
        """What these moves say of the target's sensors. The layer tells that the network which acts reads with."""
        return {"observation": moves[self.acting[0]][: self.size].tolist()} if self.acting else {}


class _VecNormalizeRange:
    """The input range that ``VecNormalize`` knows. It clips, so means are measured before it.

    Of a dictionary it knows the parts that it normalizes. Those that are no vectors are left alone.
    """

    def __init__(self, normalizer: VecNormalize) -> None:
        parts = {key: part for key, part in _parts(normalizer.obs_rms).items() if part.mean.ndim == 1}
        self.statistics = parts
        self.source = {key: torch.from_numpy(part.mean.copy()) for key, part in parts.items()}
        self.spread = {
            key: (torch.from_numpy(part.var.copy()) + normalizer.epsilon).sqrt() for key, part in parts.items()
        }
        self.size = sum(len(mean) for mean in self.source.values())

    def moved(self, correction: Correction) -> int:
        """How many entries of the observation a correction moves."""
        return sum(int(entries.sum()) for entries, _ in correction.values())

    def measure(self, visited: tuple[Any, NDArray[Any]], recorder: _TrialRecorder) -> dict[str, Tensor]:
        """Mean raw observation of the states that the policy visited."""
        return {key: torch.from_numpy(recorder.observations[key] / recorder.steps) for key in self.source}

    def apply(self, correction: Correction) -> None:
        """Set the means of a correction. All other means are the source's."""
        for key, own in self.source.items():
            far, means = correction.get(key, (torch.zeros_like(own, dtype=torch.bool), own))
            self.statistics[key].mean = torch.where(far, means, own).numpy().copy()

    def moves(self, correction: Correction) -> dict[str, Tensor]:
        """How far a correction moves the means of each part."""
        return {key: _move(correction.get(key), own) for key, own in self.source.items()}

    def offset(self, moves: Mapping[str, Tensor]) -> dict[str, list[float]]:
        """What these moves say of the target's sensors."""
        return {key: move.tolist() for key, move in moves.items()}


def find_input_range(model: BaseAlgorithm, beyond: float) -> _BatchNormRange | _VecNormalizeRange:
    """Where the input range of the source is kept: in ``VecNormalize``, or else in BatchNorm layers.

    :param model: any SB3 algorithm object
    :param beyond: ``realign`` of the method, for the message
    :raises MethodError: observations are neither vectors nor dictionaries with vectors, or nothing normalizes them
    """
    space, normalizer = model.observation_space, model.get_vec_normalize_env()
    found: _BatchNormRange | _VecNormalizeRange | None = None
    if normalizer is not None and normalizer.norm_obs:
        found = _VecNormalizeRange(normalizer)
    elif isinstance(space, spaces.Box) and len(space.shape) == 1:
        found = _BatchNormRange(model, space.shape[0])
    if found is not None and found.source:
        return found
    raise MethodError(
        f"realign={beyond}: nothing normalizes vectors of {space}, neither VecNormalize nor a BatchNorm layer, so the "
        "input range of the source is unknown. Use realign=None."
    )


@torch.no_grad()
def realign(model: BaseAlgorithm, venv: VecEnv, steps: int, seed: int | None, beyond: float) -> Realignment:
    """Give what normalizes the observation the target's means of inputs far from the source's, in place.

    The policy visits states of the target and takes their means; then it does so again from where that leads. The best
    trial is kept if its returns are above the source's by more than three standard errors over the environments (with
    one environment: by anything). Returns are those of ``steps / 4 / num_envs`` steps, without costs. What comes later
    in an episode is not seen.

    :param model: any SB3 algorithm object whose observations are vectors, or dictionaries with vectors
    :param venv: the target, an environment of raw observations and rewards
    :param steps: target steps in all
    :param seed: environment ``i`` starts from ``seed + i`` in every trial; ``None`` leaves random numbers alone
    :param beyond: how many of the source's standard deviations away the mean of an input has to be
    :return: how many inputs were moved, and the returns
    :raises MethodError: see :func:`find_input_range`
    """
    inputs = find_input_range(model, beyond)
    trials: list[tuple[NDArray[Any], Correction]] = []
    correction: Correction = {}
    for _ in range(TRIALS):
        inputs.apply(correction)
        recorder = _TrialRecorder(venv)
        means = inputs.measure(visit(model, recorder, -(-steps // TRIALS), seed), recorder)
        trials.append((recorder.returns / recorder.steps, correction))
        far = {name: (means[name] - own).abs() / inputs.spread[name] > beyond for name, own in inputs.source.items()}
        for entries in far.values():
            entries[inputs.size :] = False  # after the observation, a critic's layer reads the action
        correction = {name: (entries, means[name]) for name, entries in far.items()}
    returns, correction = max(trials, key=lambda trial: trial[0].mean())
    before = trials[0][0]
    if not _clearly_above(returns, before):
        correction = {}
    inputs.apply(correction)
    gained = float(before.mean()), float(returns.mean())
    if not (moved := inputs.moved(correction)):
        return Realignment(inputs.size, 0, *gained)
    moves = inputs.moves(correction)
    return Realignment(inputs.size, moved, *gained, inputs.offset(moves), moves)


@contextmanager
def at_home(model: BaseAlgorithm, realigned: Realignment) -> Iterator[None]:
    """Inside, the policy acts by the source's means: there, sensors have no offset.

    :param model: was realigned, and may have been converted and have learnt since
    :param realigned: what :func:`realign` did
    """
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None and normalizer.norm_obs:
        places: Mapping[str, Any] = _parts(normalizer.obs_rms)
    else:
        places = batchnorm_layers(model.policy)
    before = {}
    with torch.no_grad():
        for name, move in realigned.moves.items():
            mean = places[name].mean
            before[name] = copy.deepcopy(mean)
            mean[:] = mean - (move.numpy() if isinstance(mean, np.ndarray) else move.to(mean))
        try:
            yield
        finally:
            for name, mean in before.items():
                places[name].mean[:] = mean


def _move(correction: tuple[Tensor, Tensor] | None, own: Tensor) -> Tensor:
    return torch.zeros_like(own) if correction is None else torch.where(correction[0], correction[1] - own, 0.0)


def _clearly_above(returns: NDArray[Any], before: NDArray[Any]) -> bool:
    """Whether returns rose by more than :data:`SURE` standard errors over the environments."""
    gain = returns - before
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return bool(gain.mean() > SURE * error)
