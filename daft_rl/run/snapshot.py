"""What a model computes at one moment, kept to be put back later."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr

__all__ = ["PolicyCopy", "Snapshot", "not_finite"]

STATISTICS = ("obs_rms", "ret_rms")
"""Attributes of a ``VecNormalize``."""


class PolicyCopy:
    """The policy of a model and the statistics of its ``VecNormalize`` as they are now, to play with later.

    It is a copy, not a state, because what is adapted later may have other layers.

    :param model: any SB3 algorithm object
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        self.model = model
        # what does not change how the policy acts stays shared: optimizers, hooks, what a distribution drew last
        shared = [getattr(model, "tuner", None)]
        for module in model.policy.modules():
            shared += [vars(module).get(name) for name in ("optimizer", "action_dist")]
        self._policy = copy.deepcopy(model.policy, {id(part): part for part in shared if part is not None})
        self._statistics = _statistics(model)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside of the block the model acts as it did when this object was made."""
        now, statistics = self.model.policy, _statistics(self.model)
        self.model.policy = self._policy
        _set_statistics(self.model, self._statistics)
        try:
            yield
        finally:
            self.model.policy = now
            _set_statistics(self.model, statistics)

    def put_in_place(self) -> None:
        """Make the model act as this copy from now on; its policy stays the same object."""
        self.model.policy.load_state_dict(self._policy.state_dict())
        self.put_statistics()

    def put_statistics(self) -> None:
        """Give the model the statistics of this copy, and leave it its policy."""
        _set_statistics(self.model, self._statistics)

    def state_dict(self) -> dict[str, Any]:
        """Weights and statistics, as tensors, arrays and numbers."""
        statistics = {
            name: {key: (running.mean, running.var, running.count) for key, running in _by_key(value).items()}
            for name, value in self._statistics.items()
        }
        return {"policy": dict(self._policy.state_dict()), "statistics": statistics}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the policy of :meth:`state_dict`, which has the same layers."""
        self._policy.load_state_dict(state["policy"])
        for name, value in self._statistics.items():
            for key, running in _by_key(value).items():
                running.mean, running.var, running.count = state["statistics"][name][key]


class Snapshot:
    """Everything that learning changes in a model, as it is now: weights, moments of the optimizers, statistics.

    :param model: any SB3 algorithm object
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        self.model, self.timesteps = model, model.num_timesteps
        self._parameters: Any = copy.deepcopy(model.get_parameters())
        self._variables = {name: tensor.detach().clone() for name, tensor in _variables(model).items()}
        self._statistics = _statistics(model)

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back, in place."""
        self.model.set_parameters(self._parameters, device=self.model.device)
        for name, tensor in _variables(self.model).items():
            tensor.copy_(self._variables[name])
        _set_statistics(self.model, self._statistics)


def _statistics(model: BaseAlgorithm) -> dict[str, Any]:
    """A copy of the statistics of the model's ``VecNormalize``, if it has one."""
    normalizer = model.get_vec_normalize_env()
    return {name: copy.deepcopy(getattr(normalizer, name)) for name in STATISTICS if hasattr(normalizer, name)}


def _by_key(statistics: Any) -> dict[str, Any]:
    """The running means of dictionary observations by their keys; or the only one."""
    by_key = statistics if isinstance(statistics, dict) else {"": statistics}
    return {key: running for key, running in by_key.items() if running is not None}


def _set_statistics(model: BaseAlgorithm, statistics: dict[str, Any]) -> None:
    normalizer = model.get_vec_normalize_env()
    for name, value in statistics.items():
        setattr(normalizer, name, copy.deepcopy(value))


def _variables(model: BaseAlgorithm) -> dict[str, torch.Tensor]:
    """Loose tensors that belong to a model."""
    found = {name: recursive_getattr(model, name) for name in model._get_torch_save_params()[1]}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def not_finite(model: BaseAlgorithm) -> str | None:
    """What of a model is NaN or infinite, in words; ``None`` if nothing is."""
    tensors = {f"The weight '{name}'": tensor for name, tensor in model.policy.state_dict().items()}
    tensors |= {f"The variable '{name}'": tensor for name, tensor in _variables(model).items()}
    for name, statistics in _statistics(model).items():
        for key, running in _by_key(statistics).items():
            for moment in ("mean", "var"):
                what = f"The {moment} of VecNormalize's {name}{f'[{key!r}]' if key else ''}"
                tensors[what] = torch.as_tensor(getattr(running, moment))
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return f"{name} is {tensor[~torch.isfinite(tensor)].flatten()[0].item()}"
    return None
