"""Policies of the user's own with their classes and heads; observations that are dictionaries and images."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from daft_rl import blend, load_agent
from daft_rl.errors import AgentError
from daft_rl.policy.anatomy import Anatomy
from daft_rl.transfer import transfer
from tests.conftest import PointMass, parse
from tests.envs.test_domain import OFF_POLICY, ON_POLICY, TINY

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
gym.register("PointMass-v0", entry_point=lambda **kwargs: PointMass(**kwargs))


class Middle(nn.Module):
    """Hidden layers that fit no layout of SB3."""

    latent_dim_pi = latent_dim_vf = 8

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(3, 8), nn.ReLU())

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.trunk(features), self.trunk(features)

    def forward_actor(self, features: torch.Tensor) -> torch.Tensor:
        return self.trunk(features)

    forward_critic = forward_actor


class OwnPolicy(ActorCriticPolicy):
    """An actor-critic with these hidden layers."""

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = Middle()  # type: ignore[assignment]


class OwnSAC(SACPolicy):
    """A subclass with SAC's own layers."""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    PPO(OwnPolicy, PointMass(), n_steps=64, seed=0, device="cpu").learn(64).save(tmp_path / "agent.zip")
    return tmp_path / "agent.zip"


def test_a_policy_class_must_be_passed(archive: Path) -> None:
    with pytest.raises(AgentError, match="Pass it as policy="):
        load_agent(archive)
    assert isinstance(load_agent(archive, policy=OwnPolicy).policy, OwnPolicy)


def test_sizes_of_own_layers_must_be_passed(tmp_path: Path) -> None:
    PPO(OwnPolicy, PointMass(), policy_kwargs={"net_arch": [4]}, device="cpu").save(tmp_path / "agent.zip")
    with pytest.raises(AgentError, match="net_arch"):
        load_agent(tmp_path / "agent.zip", policy=OwnPolicy)
    load_agent(tmp_path / "agent.zip", policy=OwnPolicy, policy_kwargs={"net_arch": [4]})


def test_patterns_name_the_heads(archive: Path) -> None:
    policy = load_agent(archive, policy=OwnPolicy).policy
    with pytest.raises(AgentError, match=r"such as head=\['action_net"):
        Anatomy(policy)
    with pytest.raises(AgentError, match="nothing_fits"):
        Anatomy(policy, head=["nothing_fits*"])
    groups = Anatomy(policy, head=["action_net.*", "log_std", "value_net.*"], critic=["value_net.*"]).groups
    assert set(groups["actor_head"]) == {"action_net.weight", "action_net.bias", "log_std"}
    assert set(groups["critic_head"]) == {"value_net.weight", "value_net.bias"}
    assert set(groups["actor_encoder"]) == {"mlp_extractor.trunk.0.weight", "mlp_extractor.trunk.0.bias"}


def test_a_pattern_wins_over_the_layout() -> None:
    model = PPO("MlpPolicy", PointMass(), n_steps=64, device="cpu")
    groups = Anatomy(model.policy, head=["*_net.2.*", "action_net.*", "value_net.*", "log_std"]).groups
    assert "mlp_extractor.policy_net.2.weight" in groups["actor_head"]
    assert "mlp_extractor.value_net.2.weight" in groups["critic_head"]  # the layout says whose it is


def test_a_policy_of_the_users_is_transferred(archive: Path, tmp_path: Path) -> None:
    result = transfer(
        "gymnasium", "daft", source=archive, total_timesteps=64, output_dir=tmp_path / "run",
        settings=parse([
            *("env.id=PointMass-v0", "env.wrappers=['gymnasium.wrappers:FlattenObservation']", *TINY, *ON_POLICY),
            *("agent.policy=tests.archives.test_own_policies:OwnPolicy", "env.shift.observation_noise=0.5"),
            *("agent.head=['action_net.*','log_std','value_net.*']", "agent.critic=['value_net.*']"),
        ]),
    )  # fmt: skip
    assert result.timesteps >= 64
    assert isinstance(PPO.load(tmp_path / "run" / "final.zip", device="cpu").policy, OwnPolicy)


@pytest.mark.parametrize("kwargs", [{}, {"net_arch": [8]}])
def test_inserted_batchnorm_of_a_policy_of_the_users_is_loaded_and_blended(kwargs: Any, tmp_path: Path) -> None:
    model = PPO(OwnPolicy, FlattenObservation(PointMass()), policy_kwargs=kwargs or None, n_steps=64, device="cpu")
    model.save(tmp_path / "agent.zip")
    own = {"agent.policy": "tests.archives.test_own_policies:OwnPolicy", "agent.policy_kwargs": kwargs or None}
    own |= {"agent.head": ["action_net.*", "log_std", "value_net.*"], "agent.critic": ["value_net.*"]}
    result = transfer(
        PointMass, "daft", source=tmp_path / "agent.zip", total_timesteps=64, output_dir=tmp_path / "run",
        settings=parse([*TINY, *ON_POLICY]) | own,
    )  # fmt: skip
    tuned = load_agent(tmp_path / "run" / "final.zip", policy=OwnPolicy, policy_kwargs=kwargs)
    assert any(isinstance(module, nn.BatchNorm1d) for module in tuned.policy.modules())
    played = blend(tmp_path / "run", 1.0, alphas=[], env=PointMass).returns
    assert played[1.0]["target"].returns == result.final["target"].returns


def test_a_subclass_with_the_usual_layers_needs_no_patterns(tmp_path: Path) -> None:
    SAC(OwnSAC, PointMass(), learning_starts=20, device="cpu").learn(40).save(tmp_path / "agent.zip")
    result = transfer(
        "gymnasium", "daft", source=tmp_path / "agent.zip", total_timesteps=40, output_dir=tmp_path / "run",
        settings=parse([
            *("env.id=PointMass-v0", "agent.policy=tests.archives.test_own_policies:OwnSAC"), *TINY, *OFF_POLICY,
        ]),
    )  # fmt: skip
    assert any(name.startswith("actor.latent_pi") for name in result.distortion)


class Seeing(gym.Env):
    """Images, alone or together with a vector; nothing happens."""

    def __init__(self, dictionary: bool) -> None:
        image = spaces.Box(0, 255, (40, 40, 1), np.uint8)
        vector = spaces.Box(-np.inf, np.inf, (3,))
        self.observation_space = spaces.Dict({"image": image, "vector": vector}) if dictionary else image
        self.action_space = spaces.Discrete(2)
        self.steps = 0

    def _observe(self) -> Any:
        image = self.np_random.integers(0, 256, (40, 40, 1), dtype=np.uint8)
        if isinstance(self.observation_space, spaces.Dict):
            return {"image": image, "vector": self.np_random.normal(size=3).astype(np.float32)}
        return image

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._observe(), float(action), False, self.steps >= 8, {}


gym.register("Seeing-v0", entry_point=lambda **kwargs: Seeing(**kwargs))


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("kind", [PPO, DQN])
def test_agents_with_dictionaries_and_images_are_transferred(kind: type[Any], dictionary: bool, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"n_steps": 16, "batch_size": 16} if kind is PPO else {"buffer_size": 100}
    policy = "MultiInputPolicy" if dictionary else "CnnPolicy"
    model = kind(policy, Seeing(dictionary), policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **settings)
    model.save(tmp_path / "agent.zip")
    own = {"n_steps": 16} if kind is PPO else {"buffer_size": 100, "learning_starts": 8}
    result = transfer(
        "gymnasium", "daft", source=tmp_path / "agent.zip", total_timesteps=32, output_dir=tmp_path / "run",
        settings=parse([
            *("env.id=Seeing-v0", f"env.kwargs.dictionary={dictionary}", f"env.source_kwargs.dictionary={dictionary}"),
            *(*TINY, "algo.settings.batch_size=16"),
            *(f"algo.settings.{name}={value}" for name, value in own.items()),
        ]),
    )  # fmt: skip
    assert sum("weight_l2" in measured for measured in result.distortion.values()) > 8
    tuned = kind.load(tmp_path / "run" / "final.zip", device="cpu")
    assert any(isinstance(module, nn.BatchNorm2d) for module in tuned.policy.modules())


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "own_policy.py"), "--steps", "1024", "--folder", str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "zero-shot" in done.stdout
    done = subprocess.run(
        [
            *(sys.executable, "-m", "daft_rl.transfer", "env=gymnasium", "env.id=own_policy:Glider-v0"),
            *(f"agent={tmp_path / 'source.zip'}", "agent.policy=own_policy:TrunkPolicy", "env.kwargs.wind=0.5"),
            *("agent.head=['action_net.*','log_std','value_net.*']", "total_timesteps=128"),
            f"output_dir={tmp_path / 'run'}",
            *("agent.critic=['value_net.*','mlp_extractor.judge.*']", *TINY, *ON_POLICY),
        ],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(EXAMPLES)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Glider-v0" in done.stdout


@pytest.mark.parametrize(("kind", "algo"), [(SAC, "ppo"), (PPO, "sac")])
def test_an_agent_of_another_algorithm_is_refused(kind: type[Any], algo: str, tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=f"got one of {kind.__name__}"):
        transfer(PointMass, source=kind("MlpPolicy", PointMass()), algo=algo, output_dir=tmp_path / "run")


class MyPPO(PPO):
    """A user's algorithm."""


def test_a_class_derived_from_an_algorithm_is_that_algorithm(tmp_path: Path) -> None:
    result = transfer(
        PointMass, "daft", source=MyPPO("MlpPolicy", PointMass(), device="cpu"), total_timesteps=64,
        output_dir=tmp_path / "run's", settings=parse([*TINY, *ON_POLICY]),
    )  # fmt: skip
    assert result.algo == "ppo"
    source = tmp_path / "run's" / "final.zip"  # a name with an apostrophe
    result = transfer(
        PointMass,
        "daft",
        source=source,
        total_timesteps=64,
        output_dir=tmp_path / "run",
        settings=parse([*TINY, *ON_POLICY]),
    )
    assert (result.source, result.algo) == (str(source), "ppo")


@pytest.mark.parametrize("trust", [None, True])
def test_noise_for_another_number_of_environments_is_replaced(trust: bool | None, tmp_path: Path) -> None:
    """SB3 keeps such noise in an agent, and in its archive."""
    venv = DummyVecEnv([PointMass] * 3)
    noise = NormalActionNoise(np.zeros(2), np.full(2, 0.1))
    model = TD3("MlpPolicy", venv, action_noise=noise, learning_starts=10, buffer_size=100, device="cpu").learn(30)
    model.save(tmp_path / "agent.zip")
    source, overrides = (model, []) if trust is None else (tmp_path / "agent.zip", ["agent.trust=true"])
    result = transfer(
        PointMass, "daft", source=source, total_timesteps=64, output_dir=tmp_path / "run",
        settings=parse([*overrides, *TINY, *OFF_POLICY]),
    )  # fmt: skip
    assert result.timesteps >= 64
