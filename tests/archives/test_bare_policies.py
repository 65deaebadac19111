"""A policy alone, as behaviour cloning leaves it, is put into an agent that computes the same and learns on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import daft_rl
from daft_rl import load_agent
from daft_rl.errors import AgentError
from tests.archives.helpers import CASES, VECTOR, Spaces, assert_same, make, save
from tests.archives.test_load import MyActivation

pytestmark = [pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")]


class Cloned(ActorCriticPolicy):
    """As in ``imitation``: a class that fixes the sizes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, net_arch=[32, 32])  # type: ignore[misc]


class Reversed(ActorCriticPolicy):
    """A class that acts in its own way."""

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return -super()._predict(observation, deterministic)


def cloned(cls: type[ActorCriticPolicy] = Cloned, **kwargs: Any) -> ActorCriticPolicy:
    policy = cls(VECTOR, Spaces().action_space, lambda _: 1e-3, **kwargs)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.rand_like(parameter) * 0.2)
    return policy


def assert_acts_like(policy: Any, model: Any) -> None:
    for _ in range(3):
        observation = policy.observation_space.sample()
        expected, got = (one.predict(observation, deterministic=True)[0] for one in (policy, model))
        np.testing.assert_array_equal(got, expected)


ONE_EACH = (
    *("PPO default", "PPO batchnorm", "PPO sde squashed", "PPO image", "A2C default", "TRPO dict", "SAC sde"),
    *("SAC mixed", "TD3 dict", "DDPG list", "TQC quantiles", "CrossQ sde", "DQN", "QRDQN"),
)


@pytest.mark.parametrize("case", ONE_EACH)
def test_the_policy_of_every_algorithm_can_be_put_into_it(case: str) -> None:
    kind, kwargs = CASES[case]
    model = make(kind, **kwargs)
    env = Spaces(model.observation_space, model.action_space)
    wrapped = load_agent(model.policy, env=env, algo=kind.__name__, device="cpu")
    assert_same(model, wrapped)


def test_a_cloned_policy_learns_on_and_is_saved_without_the_class_it_was_cloned_into(tmp_path: Path) -> None:
    policy = cloned()
    model: Any = load_agent(policy, env=Spaces(), algo="PPO", device="cpu", n_steps=8, batch_size=4, gamma=0.9)
    assert_acts_like(policy, model)
    assert (model.gamma, type(model.policy)) == (0.9, ActorCriticPolicy)
    assert_same(model, PPO.load(save(model, tmp_path), device="cpu"))
    before = [parameter.clone() for parameter in policy.parameters()]
    model.learn(8)
    assert all(map(torch.equal, before, policy.parameters()))


def test_a_class_with_behaviour_of_its_own_is_kept() -> None:
    policy = cloned(Reversed, activation_fn=MyActivation)
    model = load_agent(policy, env=Spaces(), algo="A2C", device="cpu")
    assert type(model.policy) is Reversed
    assert_acts_like(policy, model)


def test_a_policy_learns_in_an_environment_with_other_bounds_and_in_a_normalized_one() -> None:
    load_agent(cloned(), env=Spaces(spaces.Box(-5, 5, (3,), np.float32)), algo=PPO)
    venv = VecNormalize(DummyVecEnv([Spaces]))
    assert load_agent(cloned(), env=venv, algo=PPO).get_vec_normalize_env() is venv


def test_what_is_missing_or_does_not_fit_is_named() -> None:
    policy = cloned()
    with pytest.raises(AgentError, match=r"policy alone \(Cloned\) has no algorithm\. Pass algo='PPO'.*A2C, TRPO"):
        load_agent(policy, env=Spaces())
    with pytest.raises(AgentError, match=r"Pass algo='PPO'.*not SAC"):
        load_agent(policy, env=Spaces(), algo="SAC")
    with pytest.raises(AgentError, match=r"Pass env="):
        load_agent(policy, algo="PPO")
    with pytest.raises(AgentError, match=r"The policy was trained on the observation space.*\(3,\).*\(4,\)"):
        load_agent(policy, env=Spaces(spaces.Box(-1, 1, (4,))), algo="PPO")
    with pytest.raises(AgentError, match="are for archives"):
        load_agent(policy, env=Spaces(), algo="PPO", correspondence="positions")
    with pytest.raises(AgentError, match=r"no hyperparameter 'gama'.*'gamma'"):
        load_agent(policy, env=Spaces(), algo="PPO", gama=0.9)
    recurrent = RecurrentPPO("MlpLstmPolicy", Spaces(), device="cpu").policy
    with pytest.raises(AgentError, match="RecurrentActorCriticPolicy are not supported"):
        load_agent(recurrent, env=Spaces(), algo="PPO")


def test_the_file_of_a_policy_is_recognized_and_the_advice_leads_on(tmp_path: Path) -> None:
    policy = make(PPO).policy
    path = tmp_path / "policy.zip"
    policy.save(path)
    advice = r"a policy alone.*ActorCriticPolicy\.load\(\.\.\.\).*daft_rl\.load_agent\(policy, env=env, algo='PPO'\)"
    with pytest.raises(AgentError, match=advice):
        load_agent(path)
    with pytest.raises(AgentError, match=advice):
        daft_rl.transfer(Spaces, source=path, output_dir=tmp_path / "run")
    assert_acts_like(policy, daft_rl.load_agent(ActorCriticPolicy.load(path), env=Spaces(), algo="PPO"))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [A2C, SAC, TD3, DQN, QRDQN])
def test_transfer_says_how_a_policy_becomes_an_agent(kind: Any, tmp_path: Path) -> None:
    policy = make(kind, action_space=spaces.Discrete(3) if kind in (DQN, QRDQN) else Spaces().action_space).policy
    for algo in (None, "ppo"):
        with pytest.raises(AgentError, match=r"policy alone .*daft_rl\.load_agent\(policy, env=env, algo=") as told:
            daft_rl.transfer(Spaces, source=policy, algo=algo, output_dir=tmp_path / "run")  # type: ignore[arg-type]
        assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()
