"""With the statistics of ``VecNormalize`` in its first layers, a policy computes the same without the wrapper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from torch import nn

from daft_rl.agents import BatchNormExtractor
from daft_rl.archives import find_vecnormalize, read_vecnormalize
from daft_rl.errors import AgentError, ConfigError
from daft_rl.policy.folding import fold_normalization
from daft_rl.rollout.evaluation import evaluate
from daft_rl.transfer import transfer
from tests.conftest import ALGORITHMS, DISCRETE, OFF_POLICY, PointMass, outputs, parse
from tests.envs.test_domain import ON_POLICY, TINY


def build_normalized(name: str, batchnorm: bool, norm_reward: bool = False, shared: bool = False) -> BaseAlgorithm:
    """A small agent in a ``VecNormalize`` that has seen some data."""
    venv = VecNormalize(DummyVecEnv([lambda: PointMass(discrete=name in DISCRETE)]), norm_reward=norm_reward)
    kwargs: dict[str, Any] = {"net_arch": [16]}
    if batchnorm:
        kwargs |= {"features_extractor_class": BatchNormExtractor, "features_extractor_kwargs": {"hidden": [8]}}
    if shared:
        kwargs["share_features_extractor"] = True
    settings: dict[str, Any] = {"learning_starts": 20} if name in OFF_POLICY else {"n_steps": 64}
    model = ALGORITHMS[name]("MlpPolicy", venv, policy_kwargs=kwargs, seed=0, device="cpu", **settings)
    return model.learn(64)


SHARING = ["SAC", "TD3"]
"""Their actor and critic may share an extractor; their targets have their own."""


@pytest.mark.parametrize("batchnorm", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    ("algorithm", "shared"), [*((name, False) for name in ALGORITHMS), *((n, True) for n in SHARING)]
)
def test_every_network_takes_raw_observations(algorithm: str, shared: bool, batchnorm: bool) -> None:
    model = build_normalized(algorithm, batchnorm, shared=shared)
    normalizer = model.get_vec_normalize_env()
    assert normalizer is not None
    raw = np.random.default_rng(0).normal(0.5, 1.0, (50, 3)).astype(np.float32)
    normalized = torch.as_tensor(normalizer.normalize_obs(raw))
    assert normalized.abs().max() < 10  # none is clipped
    actions = torch.rand(50, 2)
    before = outputs(model, normalized, actions)
    with pytest.warns(UserWarning, match="clipped"):
        changed = fold_normalization(model)
    assert changed
    for old, now in zip(before, outputs(model, torch.as_tensor(raw), actions), strict=True):
        torch.testing.assert_close(now, old, rtol=1e-3, atol=1e-4)
    assert model.get_vec_normalize_env() is None
    model.learn(32)


def test_rewards_stay_scaled() -> None:
    model = build_normalized("PPO", False, norm_reward=True)
    with pytest.warns(UserWarning, match="clipped"):
        fold_normalization(model)
    normalizer: Any = model.get_vec_normalize_env()
    assert normalizer is not None
    assert normalizer.norm_reward
    raw = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(normalizer.normalize_obs(raw), raw)


def test_without_a_wrapper_nothing_is_folded() -> None:
    model = ALGORITHMS["PPO"]("MlpPolicy", PointMass(), n_steps=64, device="cpu")
    assert fold_normalization(model) == []


def test_layers_without_bias_are_refused() -> None:
    model = build_normalized("PPO", False)
    network: Any = model.policy.mlp_extractor.policy_net  # type: ignore[union-attr]
    network[0].bias = None
    with pytest.raises(AgentError, match="bias"):
        fold_normalization(model)


def test_wrappers_outside_of_the_statistics_are_refused() -> None:
    venv = VecFrameStack(VecNormalize(DummyVecEnv([PointMass])), 2)
    model = ALGORITHMS["PPO"]("MlpPolicy", venv, n_steps=64, device="cpu")
    with pytest.raises(AgentError, match="outside of VecNormalize"):
        fold_normalization(model)


@pytest.mark.parametrize("how", ["frozen", "update", "fold"])
@pytest.mark.parametrize("given", ["archive", "object"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_transfer_freezes_updates_or_folds_the_statistics(how: str, given: str, tmp_path: Path) -> None:
    model = build_normalized("PPO", False)
    model.save(tmp_path / "agent.zip")
    normalizer: Any = model.get_vec_normalize_env()
    normalizer.save(str(tmp_path / "vecnormalize.pkl"))
    result = transfer(
        lambda: PointMass(), "daft", source=tmp_path / "agent.zip" if given == "archive" else model, total_timesteps=64,
        output_dir=tmp_path / "run",
        settings=parse([f"agent.normalize={how}", "evaluation.every=48", *TINY, *ON_POLICY]),
    )  # fmt: skip
    assert result.timesteps == 64
    expected = evaluate(model, DummyVecEnv([PointMass]), 2, 10_000).returns
    np.testing.assert_allclose(result.zero_shot["target"].returns, expected, rtol=1e-5)
    saved = tmp_path / "run" / "vecnormalize.pkl"
    assert saved.exists() == (how != "fold")
    best = find_vecnormalize(tmp_path / "run" / "best.zip")
    assert best == (None if how == "fold" else tmp_path / "run" / "best_vecnormalize.pkl")
    if how != "fold":
        after = read_vecnormalize(saved).obs
        assert np.array_equal(after.mean, normalizer.obs_rms.mean) == (how == "frozen")  # type: ignore[union-attr]


def test_an_unknown_treatment_of_normalization_is_refused(tmp_path: Path) -> None:
    build_normalized("PPO", False).save(tmp_path / "agent.zip")
    with pytest.raises(ConfigError, match="one of frozen, update, fold"):
        transfer(
            lambda: PointMass(), source=tmp_path / "agent.zip", output_dir=tmp_path / "run",
            settings=parse(["agent.normalize=nope", *TINY]),
        )  # fmt: skip


class Twice(BaseFeaturesExtractor):
    """Reads the observation in its first layer and, in part or whole, elsewhere."""

    def __init__(self, space: spaces.Box, how: str) -> None:
        super().__init__(space, 6)
        self.how, self.first, self.second = how, nn.Linear(3, 3), nn.Linear(2, 3)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        other = self.second(observations[:, 1:]) if self.how == "part" else observations
        return torch.cat([self.first(observations).tanh(), other], 1)


@pytest.mark.parametrize("how", ["part", "around"])
def test_a_policy_that_reads_observations_elsewhere_is_left_as_it_is(how: str) -> None:
    venv = VecNormalize(DummyVecEnv([PointMass]))
    kwargs = {"features_extractor_class": Twice, "features_extractor_kwargs": {"how": how}, "net_arch": [8]}
    model = ALGORITHMS["PPO"]("MlpPolicy", venv, policy_kwargs=kwargs, n_steps=64, seed=0, device="cpu").learn(64)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    with pytest.raises(AgentError, match=r"more of the policy reads the observation"):
        fold_normalization(model)
    assert all(torch.equal(value, before[name]) for name, value in model.policy.state_dict().items())
    assert model.get_vec_normalize_env() is venv
    assert venv.norm_obs
