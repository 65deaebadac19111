"""Agents with inserted BatchNorm can be copied and pickled, whatever they did before."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import cache
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from daft_rl.agents import fuse_batch_renorm, policies
from daft_rl.policy import Networks, insert_batchnorm
from tests.conftest import ALGORITHMS, OFF_POLICY, PointMass, build, data

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "cloudpickle": lambda thing: cloudpickle.loads(cloudpickle.dumps(thing)),
}


class OwnPolicy(ActorCriticPolicy):
    """A policy of the user's own."""


@cache
def build_inserted(name: str, use_sde: bool) -> BaseAlgorithm:
    """An agent that has learnt with inserted BatchNorm, so that its action distribution holds gradients."""
    settings: dict[str, Any] = {"learning_starts": 20, "buffer_size": 500} if name in OFF_POLICY else {"n_steps": 64}
    kwargs = {"net_arch": [16]} | ({"batch_norm": False} if name == "CrossQ" else {})
    model = ALGORITHMS[name](
        "MlpPolicy", PointMass(), use_sde=use_sde, policy_kwargs=kwargs, seed=0, device="cpu", **settings
    )
    insert_batchnorm(model, Networks(model.policy).batches(*data(model)))
    return model.learn(64)


def assert_same_policy(policy: Any, copied: Any) -> None:
    assert type(copied) is type(policy)
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    expected = policy.predict(observations, deterministic=True)[0]
    np.testing.assert_array_equal(copied.predict(observations, deterministic=True)[0], expected)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1.0)
    np.testing.assert_array_equal(policy.predict(observations, deterministic=True)[0], expected)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("use_sde", [False, True])
@pytest.mark.parametrize("name", ["PPO", "SAC", "CrossQ"])
def test_an_agent_with_inserted_batchnorm_is_copied(name: str, use_sde: bool, how: str) -> None:
    model = build_inserted(name, use_sde)
    assert_same_policy(model.policy, COPIES[how](model.policy))
    copied = COPIES[how](model)
    assert copied.learn(64).num_timesteps == 64
    assert_same_policy(model.policy, COPIES[how](model).policy)


@pytest.mark.parametrize("how", COPIES)
def test_fused_batch_renorm_is_copied(how: str) -> None:
    model = build("CrossQ")
    fuse_batch_renorm(model.policy)
    model.learn(40)
    assert_same_policy(model.policy, COPIES[how](model.policy))
    assert COPIES[how](model).learn(40).num_timesteps == 40


class OwnBatchNormPolicy(policies.BatchNormPPOMlpPolicy):  # type: ignore[name-defined, misc]
    """A policy of the user's own that has BatchNorm from the start."""


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("cls", [OwnPolicy, OwnBatchNormPolicy])
def test_a_policy_of_the_users_is_copied(cls: type[ActorCriticPolicy], how: str) -> None:
    model = PPO(cls, PointMass(), n_steps=64, device="cpu")
    if cls is OwnPolicy:
        insert_batchnorm(model, Networks(model.policy).batches(*data(model)))
    assert isinstance(model.policy, cls)
    assert_same_policy(model.policy, COPIES[how](model.policy))
