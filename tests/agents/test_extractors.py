"""The BatchNorm extractor: its layers, its use in SB3, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from torch import nn

from daft_rl.agents import BatchNormExtractor
from daft_rl.errors import AgentError
from tests.conftest import PointMass


def test_each_hidden_layer_has_batchnorm() -> None:
    extractor = BatchNormExtractor(spaces.Box(-1, 1, (4, 3)), hidden=[8, 5], activation="Tanh")
    kinds = [type(layer) for layer in extractor.net]
    hidden = [nn.Linear, nn.BatchNorm1d, nn.Tanh]
    assert kinds == [nn.Flatten, nn.BatchNorm1d, *hidden, *hidden]
    assert extractor.features_dim == 5
    assert extractor(torch.zeros(6, 4, 3, dtype=torch.float64)).shape == (6, 5)


def test_without_hidden_layers_it_normalizes_the_observation() -> None:
    extractor = BatchNormExtractor(spaces.Box(-1, 1, (3,)), hidden=[])
    assert extractor.features_dim == 3
    x = torch.randn(100, 3) * 5 + 2
    torch.testing.assert_close(extractor.train()(x).mean(0), torch.zeros(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_plain_sb3_opens_the_archives(algorithm: type[Any], tmp_path: Path) -> None:
    model = algorithm(
        "MlpPolicy",
        PointMass(),
        policy_kwargs={
            "features_extractor_class": BatchNormExtractor,
            "features_extractor_kwargs": {"hidden": [8]},
            "share_features_extractor": False,
            "net_arch": [8],
        },
        seed=0,
    )
    model.save(tmp_path / "agent.zip")
    observation = np.ones((2, 3), np.float32)
    loaded = algorithm.load(tmp_path / "agent.zip")
    expected = model.predict(observation, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], expected)


def test_other_spaces_and_unknown_activations_are_refused() -> None:
    with pytest.raises(AgentError, match="Box"):
        BatchNormExtractor(spaces.Discrete(3))
    for name in ("relu", "functional", "nope"):
        with pytest.raises(AgentError, match=rf"'{name}'.*torch\.nn"):
            BatchNormExtractor(spaces.Box(-1, 1, (3,)), activation=name)
