"""Inserted BatchNorm does not change what a policy computes, and the agent then learns and saves like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import CrossQ, RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from daft_rl import insert_batchnorm, load_agent
from daft_rl.agents.policies import add_batchnorm
from daft_rl.batchnorm import batchnorm_layers
from daft_rl.errors import AgentError
from daft_rl.finetune.tuner import Tuner
from daft_rl.method import Method
from daft_rl.policy.anatomy import Anatomy
from tests.conftest import ALGORITHMS, DISCRETE, OFF_POLICY, PointMass, algorithms, data, outputs

WITHOUT = algorithms("CrossQ")
"""CrossQ has BatchRenorm of its own."""


def build_plain(name: str, **settings: Any) -> BaseAlgorithm:
    """A small agent without BatchNorm that has learnt a little."""
    settings |= {"learning_starts": 20, "buffer_size": 1000} if name in OFF_POLICY else {"n_steps": 64}
    env = PointMass(discrete=name in DISCRETE)
    model = ALGORITHMS[name]("MlpPolicy", env, policy_kwargs={"net_arch": [16, 8]}, seed=0, device="cpu", **settings)
    return model.learn(64)


def tensors(model: BaseAlgorithm) -> tuple[Any, Any]:
    return next(Anatomy(model.policy).batches(*data(model)))


@pytest.mark.parametrize("algorithm", WITHOUT)
@pytest.mark.parametrize("on_input", [False, True])
def test_every_network_computes_what_it_did(algorithm: str, on_input: bool) -> None:
    model = build_plain(algorithm)
    observations, actions = tensors(model)
    before = outputs(model, observations, actions)
    new = insert_batchnorm(model, [(observations[:50], actions[:50]), (observations[50:], actions[50:])], on_input)
    for old, now in zip(before, outputs(model, observations, actions), strict=True):
        torch.testing.assert_close(now, old, rtol=1e-5, atol=1e-5)
    layers = batchnorm_layers(model.policy)
    assert set(new) == {name for name in layers if "_target" not in name}
    measured = Anatomy(model.policy).measure([(observations, actions)])
    for name in new:  # the statistics are those of the data
        torch.testing.assert_close(layers[name].mean.double(), measured[name].mean, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("algorithm", WITHOUT)
def test_the_agent_goes_on_learning_and_opens_in_plain_sb3(algorithm: str, tmp_path: Path) -> None:
    model = build_plain(algorithm)
    observations, _ = tensors(model)
    insert_batchnorm(model, [observations])
    start = {name: p.clone() for name, p in model.policy.named_parameters()}
    before = {name: layer.mean.clone() for name, layer in batchnorm_layers(model.policy).items()}
    model.learn(64)
    layers: dict[str, Any] = batchnorm_layers(model.policy)
    new = [name for name in layers if "_target" not in name]
    assert all(not torch.equal(start[f"{name}.weight"], layers[name].module.weight) for name in new)
    if "critic_target" in dict(model.policy.named_children()):  # SB3 copies statistics to the targets at each update
        assert any(not torch.equal(before[name], layers[name].mean) for name in layers if "_target" in name)
    model.save(tmp_path / "agent.zip")
    for loaded in (type(model).load(tmp_path / "agent.zip"), load_agent(tmp_path / "agent.zip")):
        assert type(loaded.policy) is type(model.policy)
        for name, value in model.policy.state_dict().items():
            assert torch.equal(loaded.policy.state_dict()[name], value)


@pytest.mark.parametrize("algorithm", WITHOUT)
def test_daft_applies_to_inserted_layers(algorithm: str, tmp_path: Path) -> None:
    model = build_plain(algorithm)
    observations, actions = data(model)
    insert_batchnorm(model, Anatomy(model.policy).batches(observations, actions))
    tuner = Tuner(model, Method(name="mine", conversion="once", bn_mode="eval"))
    tuner.convert(observations + 1, actions)
    model.learn(64)
    tuner.detach()
    assert all(torch.isfinite(value).all() for value in model.policy.state_dict().values())
    model.save(tmp_path / "agent.zip")
    type(model).load(tmp_path / "agent.zip")


@pytest.mark.parametrize("kind", [PPO, SAC])
def test_policies_with_state_dependent_exploration_keep_their_function(kind: Any) -> None:
    model = build_plain(kind.__name__, use_sde=True)
    observations, actions = tensors(model)
    before = outputs(model, observations, actions)
    insert_batchnorm(model, [(observations, actions)])
    for old, now in zip(before, outputs(model, observations, actions), strict=True):
        torch.testing.assert_close(now, old, rtol=1e-5, atol=1e-5)
    model.learn(64)


@pytest.mark.parametrize("kind", [PPO, DQN])
def test_convolutional_policies_keep_their_function(kind: Any, tmp_path: Path) -> None:
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1, discrete=True)
    settings: dict[str, Any] = {"n_steps": 16, "batch_size": 16} if kind is PPO else {"buffer_size": 100}
    model = kind("CnnPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **settings)
    images = torch.randint(0, 256, (20, 1, 40, 40), dtype=torch.uint8)
    before = outputs(model, images, torch.zeros(20, 1))
    new = insert_batchnorm(model, [images])
    for old, now in zip(before, outputs(model, images, torch.zeros(20, 1)), strict=True):
        torch.testing.assert_close(now, old, rtol=1e-4, atol=1e-5)
    kinds = [type(layer.module) for name, layer in batchnorm_layers(model.policy).items() if name in new]
    assert kinds.count(nn.BatchNorm2d) == 3
    assert kinds.count(nn.BatchNorm1d) >= 2
    model.learn(32)
    model.save(tmp_path / "agent.zip")
    loaded = load_agent(tmp_path / "agent.zip")
    for name, value in model.policy.state_dict().items():
        assert torch.equal(loaded.policy.state_dict()[name], value)


def test_optimizers_keep_their_state() -> None:
    model = build_plain("SAC")
    observations, _ = tensors(model)
    critic: Any = model.policy.critic
    first = critic.qf0[0].weight
    moment = critic.optimizer.state[first]["exp_avg"].clone()
    insert_batchnorm(model, [observations])
    assert torch.equal(critic.optimizer.state[first]["exp_avg"], moment)
    assert [id(p) for p in critic.optimizer.param_groups[0]["params"]] == [id(p) for p in critic.parameters()]


def test_constant_inputs_stay_finite() -> None:
    model = build_plain("PPO")
    observations = torch.ones(30, 3)
    before = outputs(model, observations, torch.zeros(30, 2))
    insert_batchnorm(model, [observations], on_input=True)
    elsewhere = 100 * torch.randn(30, 3)
    for result in (outputs(model, observations, torch.zeros(30, 2)), outputs(model, elsewhere, torch.zeros(30, 2))):
        assert all(torch.isfinite(value).all() for value in result)
    for old, now in zip(before, outputs(model, observations, torch.zeros(30, 2)), strict=True):
        torch.testing.assert_close(now, old, rtol=1e-5, atol=1e-5)


def test_the_network_that_ends_in_an_activation_keeps_its_output() -> None:
    model = build_plain("TD3")
    actor: Any = model.policy.actor
    kinds_before = [type(layer) for layer in actor.mu]
    add_batchnorm(model.policy)
    assert kinds_before[-2:] == [nn.Linear, nn.Tanh] == [type(layer) for layer in actor.mu][-2:]
    assert sum(isinstance(layer, nn.BatchNorm1d) for layer in actor.mu) == 2


def test_a_policy_without_a_place_for_batchnorm_is_refused() -> None:
    model = build_plain("PPO")
    observations, _ = tensors(model)
    insert_batchnorm(model, [observations])
    with pytest.raises(AgentError, match="no place for BatchNorm"):
        insert_batchnorm(model, [observations])


def test_a_subclass_of_the_users_is_saved_and_loaded(tmp_path: Path) -> None:
    from stable_baselines3.common.policies import ActorCriticPolicy

    class Mine(ActorCriticPolicy):
        pass

    model = PPO(Mine, PointMass(), n_steps=64, seed=0, device="cpu")
    observations, _ = tensors(model)
    insert_batchnorm(model, [observations])
    assert isinstance(model.policy, Mine)
    model.save(tmp_path / "agent.zip")
    loaded = PPO.load(tmp_path / "agent.zip", device="cpu")
    np.testing.assert_array_equal(
        loaded.predict(observations.numpy(), deterministic=True)[0],
        model.predict(observations.numpy(), deterministic=True)[0],
    )
    assert isinstance(loaded.action_space, spaces.Box)


class Hidden(BaseFeaturesExtractor):
    """Layers that actor and critic may share."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space, 8)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.ReLU())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.net(observations)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("algorithm", ["SAC", "TD3", "DDPG", "TQC"])
def test_a_shared_extractor_stays_in_the_optimizers_that_had_it(algorithm: str, shared: bool, tmp_path: Path) -> None:
    kind = ALGORITHMS[algorithm]
    kwargs = {"net_arch": [8], "features_extractor_class": Hidden, "share_features_extractor": shared}
    model = kind("MlpPolicy", PointMass(), policy_kwargs=kwargs, learning_starts=20, buffer_size=1000, device="cpu")
    insert_batchnorm(model.learn(40), [tensors(model)])
    model.learn(40)
    model.save(tmp_path / "agent.zip")
    loaded = kind.load(tmp_path / "agent.zip", env=PointMass())
    for name, value in model.policy.state_dict().items():
        torch.testing.assert_close(loaded.policy.state_dict()[name], value)
    loaded.learn(40)


def test_crossq_without_batch_renorm_gets_batchnorm(tmp_path: Path) -> None:
    kwargs = {"net_arch": [16], "batch_norm": False}
    model = CrossQ("MlpPolicy", PointMass(), policy_kwargs=kwargs, learning_starts=20, buffer_size=1000, device="cpu")
    assert insert_batchnorm(model, [tensors(model)])
    model.save(tmp_path / "agent.zip")
    observation = np.ones(3, np.float32)
    expected = model.predict(observation, deterministic=True)[0]
    for loaded in (load_agent(tmp_path / "agent.zip"), CrossQ.load(tmp_path / "agent.zip")):
        np.testing.assert_allclose(loaded.predict(observation, deterministic=True)[0], expected, rtol=1e-5)


def test_recurrent_policies_are_refused_and_not_changed() -> None:
    model = RecurrentPPO("MlpLstmPolicy", PointMass(), n_steps=16, device="cpu")
    with pytest.raises(AgentError, match="RecurrentActorCriticPolicy"):
        insert_batchnorm(model, [torch.zeros(4, 3)])
    assert not batchnorm_layers(model.policy)
