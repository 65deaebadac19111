"""An agent that SB3 saved comes back bit-equal and goes on learning; what cannot be read must be passed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from daft_rl.archives import load_agent
from daft_rl.errors import AgentError
from tests.archives.helpers import ACTION, CASES, CHOICE, Spaces, assert_same, make, save

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot be read without running code"),
    pytest.mark.filterwarnings("ignore:You have specified a mini-batch size"),
]


@pytest.mark.parametrize("case", CASES)
def test_predictions_are_bit_equal(case: str, tmp_path: Path) -> None:
    kind, kwargs = CASES[case]
    model = make(kind, **kwargs)
    path = save(model, tmp_path)
    assert_same(model, load_agent(path, device="cpu"))
    loaded = load_agent(path, env=Spaces(model.observation_space, model.action_space), device="cpu")
    assert_same(model, loaded)
    assert loaded.policy.optimizer_class is model.policy.optimizer_class
    assert loaded.policy.optimizer_kwargs == model.policy.optimizer_kwargs
    for name in ("gamma", "n_steps", "batch_size", "ent_coef", "tau", "buffer_size", "use_sde", "learning_rate"):
        assert getattr(loaded, name, None) == getattr(model, name, None), name
    loaded.save(tmp_path / "again.zip")  # and our result is an ordinary archive
    assert_same(model, kind.load(tmp_path / "again.zip", device="cpu"))


@pytest.mark.parametrize("kind", [PPO, A2C, TRPO, SAC, TD3, DDPG, TQC, CrossQ, DQN, QRDQN])
def test_a_loaded_agent_goes_on_learning(kind: Any, tmp_path: Path) -> None:
    action_space = CHOICE if kind in (DQN, QRDQN) else ACTION
    model = make(kind, action_space=action_space).learn(16)
    path = save(model, tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*state of .* is not loaded.*")
        loaded = load_agent(path, env=Spaces(action_space=action_space), device="cpu")
    assert loaded.num_timesteps == model.num_timesteps == 16
    for name in model._get_torch_save_params()[0]:
        if name.endswith("optimizer"):
            expected, got = recursive_getattr(model, name).state_dict(), recursive_getattr(loaded, name).state_dict()
            assert str(got) == str(expected)
            assert got["state"], name
    for name in model._get_torch_save_params()[1]:
        assert torch.equal(recursive_getattr(loaded, name), recursive_getattr(model, name))
    before = {name: tensor.clone() for name, tensor in loaded.policy.state_dict().items()}
    loaded.learn(16, reset_num_timesteps=False)
    assert loaded.num_timesteps == 32
    assert any(not torch.equal(tensor, before[name]) for name, tensor in loaded.policy.state_dict().items())


class MyPPO(PPO):
    pass


def test_another_algorithm_than_the_archives_is_refused(tmp_path: Path) -> None:
    path = save(make(PPO), tmp_path)
    assert type(load_agent(path, algo=MyPPO)) is MyPPO
    assert type(load_agent(str(path.with_suffix("")), algo="PPO")) is PPO
    for algo in ("SAC", A2C):
        with pytest.raises(AgentError, match=r"an agent of PPO, not of (SAC|A2C)"):
            load_agent(path, algo=algo)
    with pytest.raises(AgentError, match=r"'DREAMER' is not supported.*PPO, A2C"):
        load_agent(path, algo="DREAMER")
    td3 = save(make(TD3), tmp_path)
    with pytest.raises(AgentError, match="an agent of TD3, not of DDPG"):
        load_agent(td3, algo=DDPG)


@pytest.mark.parametrize(("kind", "policy"), [(RecurrentPPO, "MlpLstmPolicy"), (ARS, "MlpPolicy")])
def test_an_unsupported_algorithm_is_refused_by_name(kind: Any, policy: str, tmp_path: Path) -> None:
    model = kind(policy, Spaces(), device="cpu")
    with pytest.raises(AgentError, match=rf"an agent of {kind.__name__}.*Supported: PPO, A2C, TRPO, SAC"):
        load_agent(save(model, tmp_path))


class MyActivation(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


class MyExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Space[Any], width: int = 4) -> None:
        super().__init__(observation_space, width)
        self.layer = nn.Linear(3, width)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layer(observations)


def test_an_unreadable_activation_must_be_passed(tmp_path: Path) -> None:
    model = make(PPO, policy_kwargs={"net_arch": [6], "activation_fn": MyActivation})
    path = save(model, tmp_path)
    with pytest.raises(AgentError, match=r"Pass activation='ReLU'"):
        load_agent(path)
    assert_same(model, load_agent(path, activation=MyActivation))
    other: Any = load_agent(path, activation="tanh")
    assert isinstance(other.policy.mlp_extractor.policy_net[1], nn.Tanh)
    with pytest.raises(AgentError, match="Unknown activation 'sine'"):
        load_agent(path, activation="sine")


def test_an_unreadable_extractor_must_be_passed(tmp_path: Path) -> None:
    kwargs = {"features_extractor_class": MyExtractor, "features_extractor_kwargs": {"width": 5}}
    model = make(SAC, policy_kwargs={"net_arch": [6], **kwargs})
    path = save(model, tmp_path)
    with pytest.raises(AgentError, match=r"features_extractor_class.*MyExtractor.*NatureCNN.*Pass policy_kwargs="):
        load_agent(path)
    assert_same(model, load_agent(path, policy_kwargs={"features_extractor_class": MyExtractor}))
    with pytest.raises(AgentError, match=r"tensors do not fit.*features_extractor\.layer.*Pass policy_kwargs="):
        load_agent(path, policy_kwargs={"features_extractor_class": MyExtractor, "features_extractor_kwargs": {}})


class MyPolicy(ActorCriticPolicy):
    pass


def test_a_policy_class_of_the_users_must_be_passed(tmp_path: Path) -> None:
    model = make(PPO, policy=MyPolicy)
    path = save(model, tmp_path)
    with pytest.raises(AgentError, match=r"which is not SB3's\. Pass it as policy="):
        load_agent(path)
    loaded = load_agent(path, policy=MyPolicy)
    assert type(loaded.policy) is MyPolicy
    assert_same(model, loaded)
