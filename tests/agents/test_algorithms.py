"""One entry in the table is all that a new algorithm takes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.td3.policies import TD3Policy

from daft_rl.agents import ALGORITHMS, Algorithm, find_algorithm, policies, register_algorithm
from daft_rl.agents.algorithms import recognize_algorithm
from daft_rl.archives import load_agent, read_archive
from daft_rl.batchnorm import batchnorm_layers
from daft_rl.errors import AgentError
from daft_rl.policy import Anatomy, insert_batchnorm
from tests.conftest import ALGORITHMS as CLASSES
from tests.conftest import DISCRETE, PointMass, build, data, outputs


class QuietPolicy(TD3Policy):
    """A policy of the user's own, with TD3's layers."""


class QuietTD3(TD3):
    """An algorithm of the user's own: TD3 with one hyperparameter more."""

    policy_aliases = {"MlpPolicy": QuietPolicy}

    def __init__(self, *args: Any, quiet: bool = True, **kwargs: Any) -> None:
        self.quiet = quiet
        super().__init__(*args, **kwargs)


def make_quiet() -> QuietTD3:
    kwargs = {"net_arch": [16]}
    return QuietTD3(
        "MlpPolicy", PointMass(), policy_kwargs=kwargs, quiet=False, gamma=0.9, learning_starts=20, buffer_size=500,
        seed=0, device="cpu",
    )  # fmt: skip


@pytest.fixture
def registered() -> Iterator[Algorithm]:
    """The one call that adds it."""
    register_algorithm(replace(ALGORITHMS["TD3"], cls=QuietTD3, recognize=lambda found, state: "quiet" in found))
    yield ALGORITHMS["QuietTD3"]
    del ALGORITHMS["QuietTD3"]


def test_its_archive_is_recognized(registered: Algorithm, tmp_path: Path) -> None:
    make_quiet().save(tmp_path / "agent.zip")
    assert read_archive(tmp_path / "agent.zip").algorithm == registered.name == "QuietTD3"
    model = load_agent(tmp_path / "agent.zip", policy="MlpPolicy", device="cpu")
    assert type(model) is QuietTD3
    assert (model.quiet, model.gamma) == (False, 0.9)
    assert type(model.policy) is QuietPolicy


def test_an_archive_that_does_not_show_its_algorithm_loads_by_name(registered: Algorithm, tmp_path: Path) -> None:
    register_algorithm(replace(registered, recognize=None))
    make_quiet().save(tmp_path / "agent.zip")
    assert read_archive(tmp_path / "agent.zip").algorithm == "TD3"
    for algo in ("QuietTD3", QuietTD3):
        model = load_agent(tmp_path / "agent.zip", algo=algo, policy="MlpPolicy", device="cpu")
        assert type(model) is QuietTD3
        assert not model.quiet
    build("PPO").save(tmp_path / "other.zip")
    with pytest.raises(AgentError, match="an agent of PPO, not of QuietTD3"):
        load_agent(tmp_path / "other.zip", algo=QuietTD3)


def test_its_parameters_are_grouped_and_batchnorm_is_inserted_and_converted(
    registered: Algorithm, tmp_path: Path
) -> None:
    model = make_quiet()
    anatomy = Anatomy(model.policy)
    assert all(anatomy.groups.values())
    observations, actions = next(anatomy.batches(*data(model)))
    before = outputs(model, observations, torch.as_tensor(actions))
    insert_batchnorm(model, [(observations, actions)])
    anatomy = Anatomy(model.policy)
    anatomy.apply(anatomy.measure([(observations + 1, actions)]))
    assert len(batchnorm_layers(model.policy)) == 6
    for old, now in zip(before, outputs(model, observations, torch.as_tensor(actions)), strict=True):
        torch.testing.assert_close(now, old, rtol=1e-4, atol=1e-4)
    assert type(model.policy) is policies.BatchNormQuietTD3MlpPolicy
    model.learn(40)
    model.save(tmp_path / "agent.zip")
    for loaded in (QuietTD3.load(tmp_path / "agent.zip"), load_agent(tmp_path / "agent.zip")):
        assert type(loaded.policy) is type(model.policy)
        for name, value in model.policy.state_dict().items():
            assert torch.equal(loaded.policy.state_dict()[name], value)
    assert type(pickle.loads(pickle.dumps(model.policy))) is type(model.policy)


@pytest.mark.parametrize("name", CLASSES)
def test_every_algorithm_is_found_by_class_agent_and_name(name: str) -> None:
    class Derived(CLASSES[name]):  # type: ignore[valid-type, name-defined, misc]
        pass

    entry = ALGORITHMS[name]
    assert entry.config == name.lower()
    for which in (name, CLASSES[name], Derived, build(name)):
        assert find_algorithm(which) is entry
    assert entry.line_search == (name == "TRPO")
    assert entry.explores_by_noise == (name in ("TD3", "DDPG"))
    own = (entry.bn_mode, entry.scratch_conversion, entry.actor_scale)
    assert own == (("train", "none", 0.1) if name == "CrossQ" else ("eval", "each_rollout", 1.0))


@pytest.mark.parametrize("name", CLASSES)
def test_every_archive_is_recognized(name: str, tmp_path: Path) -> None:
    CLASSES[name]("MlpPolicy", PointMass(name in DISCRETE), device="cpu").save(tmp_path / "agent.zip")
    assert read_archive(tmp_path / "agent.zip").algorithm == name


def test_what_the_table_does_not_have_is_refused() -> None:
    class Mine(BaseAlgorithm):
        pass

    for which in ("Mine", Mine):
        with pytest.raises(AgentError, match=r"Mine.* is not supported.*PPO.*register_algorithm"):
            find_algorithm(which)  # type: ignore[type-abstract]
    assert recognize_algorithm({}, {}) is None


def test_policies_with_batchnorm_have_names() -> None:
    for algorithm in ("PPO", "SAC", "TD3", "TQC", "DQN", "QRDQN"):
        for alias in ("MlpPolicy", "CnnPolicy", "MultiInputPolicy"):
            cls = getattr(policies, f"BatchNorm{algorithm}{alias}")
            assert (cls.__module__, cls.__qualname__) == (policies.__name__, f"BatchNorm{algorithm}{alias}")
    assert policies.BatchNormPPOMlpPolicy is policies.with_batchnorm(PPO.policy_aliases["MlpPolicy"])
    assert policies.BatchNormCrossQMlpPolicy.__name__ == "BatchNormCrossQMlpPolicy"
    with pytest.raises(AttributeError, match="BatchNormNothing"):
        _ = policies.BatchNormNothing
    assert np.isfinite(ALGORITHMS["CrossQ"].actor_scale)
