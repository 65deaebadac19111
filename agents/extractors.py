"""A features extractor with BatchNorm for observation vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from daft_rl.errors import AgentError

__all__ = ["BatchNormExtractor"]


class BatchNormExtractor(BaseFeaturesExtractor):
    """BatchNorm on the observation, then hidden layers ``Linear -> BatchNorm -> activation``.

    Pass it through SB3's ``policy_kwargs``. SAC, TD3, DDPG and TQC need a hidden layer after it, in which their critics
    join state and action: ``net_arch=dict(pi=[256], qf=[256])``::

        PPO("MlpPolicy", env, policy_kwargs=dict(
            features_extractor_class=BatchNormExtractor,
            features_extractor_kwargs=dict(hidden=[256, 256]),
            share_features_extractor=False,
            net_arch=[],
        ))

    :param observation_space: a ``Box``; it is flattened
    :param hidden: width of each hidden layer; the last one is the feature dimension
    :param activation: name of a class in ``torch.nn``, for instance ``"ReLU"`` or ``"Tanh"``
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        hidden: Sequence[int] = (256, 256),
        activation: str = "ReLU",
    ) -> None:
        if not isinstance(observation_space, spaces.Box):
            raise AgentError(f"BatchNormExtractor needs a Box observation space, got {observation_space}.")
        hidden = list(hidden)
        activation_fn = getattr(nn, activation, None)
        if not (isinstance(activation_fn, type) and issubclass(activation_fn, nn.Module)):
            raise AgentError(f"Unknown activation '{activation}': give the name of a class in torch.nn, like 'ReLU'.")
        inputs = spaces.flatdim(observation_space)
        super().__init__(observation_space, features_dim=hidden[-1] if hidden else inputs)
        layers: list[nn.Module] = [nn.Flatten(), nn.BatchNorm1d(inputs)]
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), activation_fn()]
            inputs = width
        self.net = nn.Sequential(*layers)

    def forward(self, observations: Tensor) -> Tensor:
        """
        :param observations: shape ``(batch, *observation_space.shape)``
        :return: features, shape ``(batch, features_dim)``
        """
        return self.net(observations.to(torch.float32))
