"""What sbx starts from is what SB3 starts from."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO

from benchmarks.speed.whole_run_sbx import affine_layers
from daft_rl.archives import find_agent


def relu_network(layers: list[tuple[NDArray[Any], NDArray[Any]]], inputs: NDArray[Any]) -> NDArray[Any]:
    for kernel, bias in layers[:-1]:
        inputs = np.maximum(inputs @ kernel + bias, 0.0)
    return inputs @ layers[-1][0] + layers[-1][1]


def test_layers_with_folded_batchnorm_are_the_same_function() -> None:
    policy: Any = PPO.load(find_agent("Ant", "ppo"), device="cpu").policy
    observations = np.random.default_rng(0).normal(size=(64, *policy.observation_space.shape)).astype(np.float32)
    layers = affine_layers([*policy.pi_features_extractor.net, policy.action_net], observations.shape[1])
    assert [len(bias) for _, bias in layers] == [128, 128, *policy.action_space.shape]
    policy.set_training_mode(False)
    expected = policy.get_distribution(torch.as_tensor(observations)).distribution.mean.detach().numpy()
    np.testing.assert_allclose(relu_network(layers, observations), expected, rtol=1e-4, atol=1e-4)
