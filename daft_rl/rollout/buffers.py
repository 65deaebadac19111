"""Reading what an SB3 algorithm collected from its rollout buffer or replay buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

__all__ = ["recent_transitions", "rollout_minibatch"]


def _map_arrays(observations: Any, take: Callable[[Any], Any]) -> Any:
    if isinstance(observations, dict):
        return {key: take(value) for key, value in observations.items()}
    return take(observations)


def _on_host(array: Any) -> Any:
    return array.cpu().numpy() if isinstance(array, Tensor) else array


def recent_transitions(model: BaseAlgorithm, steps: int) -> tuple[Any, NDArray[Any]]:
    """Observations and actions of the last rollout, or of the last ``steps`` steps in the replay buffer.

    :return: normalized observations, array ``(n, *shape)`` or a dictionary of such arrays, and actions
        ``(n, *action_shape)`` as the buffer holds them; tensors of a buffer on the device
    """
    algorithm: Any = model
    if isinstance(model, OnPolicyAlgorithm):
        buffer = algorithm.rollout_buffer
        rows = np.arange(buffer.buffer_size)
    else:
        buffer = algorithm.replay_buffer
        count = min(-(-steps // buffer.n_envs), buffer.size())
        rows = np.arange(buffer.pos - count, buffer.pos) % buffer.buffer_size

    def take(array: Any) -> Any:
        return array[rows].reshape(-1, *array.shape[2:])

    observations = _map_arrays(buffer.observations, take)
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None and not isinstance(model, OnPolicyAlgorithm):
        observations = normalizer.normalize_obs(
            _map_arrays(observations, _on_host)
        )  # replay buffers hold raw observations
    return observations, take(buffer.actions)


def rollout_minibatch(model: BaseAlgorithm) -> tuple[Any, Tensor, Tensor]:
    """A minibatch spread evenly over the rollout that the next update learns from.

    :param model: an on-policy algorithm, after it collected a rollout and before it learns
    :return: observations, actions, and the log-probabilities with which they were taken, shape ``(batch,)``
    """
    algorithm: Any = model
    buffer = algorithm.rollout_buffer
    shape = buffer.log_probs.shape
    samples = int(np.prod(shape))
    size = min(getattr(algorithm, "batch_size", None) or samples, samples)
    steps, envs = np.unravel_index(np.linspace(0, samples - 1, size).astype(int), shape)
    actions = torch.as_tensor(buffer.actions[steps, envs], device=model.device)
    if isinstance(model.action_space, spaces.Discrete):
        actions = actions.long().flatten()
    elif not actions.is_floating_point():  # MultiBinary and MultiDiscrete; an update of SB3 gets them as numbers too
        actions = actions.float()
    observations = _map_arrays(
        buffer.observations, lambda array: torch.as_tensor(array[steps, envs], device=model.device)
    )
    return observations, actions, torch.as_tensor(buffer.log_probs[steps, envs], device=model.device)
