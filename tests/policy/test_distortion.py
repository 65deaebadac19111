"""Distances are zero at the start and grow as the agent changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from daft_rl.finetune.tuner import Tuner
from daft_rl.method import Method
from daft_rl.policy import Anatomy, Distortion, StatisticsDrift, linear_cka
from tests.conftest import ALGORITHMS, DISCRETE, build, data


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_has_moved_at_the_start(algorithm: str) -> None:
    model = build(algorithm)
    distortion = Distortion(Anatomy(model.policy), *data(model))
    for name, distances in distortion.measure().items():
        for key, value in distances.items():
            assert value == pytest.approx(1.0 if key in ("cosine", "cka") else 0.0, abs=1e-5), (name, key)
    roles = {"critic"} if algorithm in DISCRETE else {"actor", "critic"}
    assert set(distortion.summary()) == {f"{role}_{key}" for role in roles for key in ("cosine", "l2")}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.policy.modules())


def test_distances_are_those_of_the_features() -> None:
    model: Any = build("PPO")
    distortion = Distortion(Anatomy(model.policy), *data(model))
    layer: Any = model.policy.pi_features_extractor.net[2]
    with torch.no_grad():
        layer.weight.mul_(2.0)
        layer.bias.mul_(2.0)
    name = next(name for name, module in model.policy.named_modules() if module is layer)
    measured = distortion.measure()
    assert measured[name]["cosine"] == pytest.approx(1.0, abs=1e-5), "a scaled feature keeps its direction"
    assert measured[name]["l2"] > 0.1
    assert measured[f"{name}.weight"]["weight_l2"] == pytest.approx(float(layer.weight.detach().norm()) / 2, rel=1e-5)
    summary = distortion.summary()
    assert summary["actor_l2"] > 0.0
    assert summary["critic_l2"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "CrossQ"])
def test_conversion_moves_statistics_and_no_features(algorithm: str) -> None:
    model = build(algorithm)
    drift = StatisticsDrift(model.policy)
    assert drift.measure() == {"mean": 0.0, "std": 0.0}
    tuner = Tuner(model, Method(name="mine", conversion="once"))
    distortion = Distortion(tuner.anatomy, *data(model))
    tuner.convert(*data(model))
    assert drift.measure()["mean"] > 0.1
    for name, value in distortion.summary().items():
        assert value == pytest.approx(1.0 if "cosine" in name else 0.0, abs=1e-3)


@given(st.integers(0, 10_000), st.floats(0.1, 10))
def test_alignment_ignores_rotation_and_scale(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(50, 6, generator=generator, dtype=torch.float64) + 3
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    assert linear_cka(features, scale * features @ rotation + 1) == pytest.approx(1.0, abs=1e-9)
    other = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    assert 0.0 <= linear_cka(features, other) < 0.9
    assert linear_cka(features, other) == pytest.approx(linear_cka(other, features))


def test_collapsed_features_are_not_aligned_with_what_they_were() -> None:
    features, dead = torch.randn(50, 6), torch.zeros(50, 6)
    assert linear_cka(features, dead) == linear_cka(dead, features) == 0.0
    assert linear_cka(dead, dead) == 1.0
    assert np.isnan(linear_cka(features, features * torch.nan))


@pytest.mark.parametrize("width", [10, 200])
def test_alignment_of_wide_features_is_the_same_quantity(width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(50, width, generator=generator, dtype=torch.float64) for _ in range(2))
    x, y = x - x.mean(0), y - y.mean(0)
    by_features = (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
    assert linear_cka(x, y) == pytest.approx(float(by_features), rel=1e-12)


def test_agents_without_batchnorm_have_no_drift() -> None:
    assert StatisticsDrift(torch.nn.Linear(2, 2)).measure() == {}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_measuring_draws_no_random_number(algorithm: str) -> None:
    """How often a run is evaluated does not change what it learns."""
    model = build(algorithm)
    distortion = Distortion(Anatomy(model.policy), *data(model))
    generator = torch.get_rng_state()
    summary, layers = distortion.summary(), distortion.measure()
    assert torch.equal(generator, torch.get_rng_state())
    heads = {name for name in Anatomy(model.policy).heads() if name.startswith("critic")}
    if heads and "critic_l2" in summary:
        assert summary["critic_l2"] == np.mean([layers[name]["l2"] for name in heads])


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "DQN"])
def test_a_fresh_measurement_goes_on_with_the_state_of_another(algorithm: str, tmp_path: Path) -> None:
    model = build(algorithm)
    distortion, drift = Distortion(Anatomy(model.policy), *data(model)), StatisticsDrift(model.policy)
    torch.save({"distortion": distortion.state_dict(), "drift": drift.state_dict()}, tmp_path / "state.pt")
    with torch.no_grad():
        for tensor in model.policy.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1.5)
    state = torch.load(tmp_path / "state.pt", weights_only=False)
    observations, actions = data(model, 50)
    fresh, fresh_drift = Distortion(Anatomy(model.policy), observations + 1, actions), StatisticsDrift(model.policy)
    assert fresh.measure() != distortion.measure()
    fresh.load_state_dict(state["distortion"])
    fresh_drift.load_state_dict(state["drift"])
    assert fresh.measure() == distortion.measure()
    assert fresh.summary() == distortion.summary()
    assert fresh_drift.measure() == drift.measure()


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "TD3", "DQN"])
def test_observations_without_actions_are_enough(algorithm: str) -> None:
    model = build(algorithm)
    observations, _ = data(model)
    anatomy = Anatomy(model.policy)
    batches = list(anatomy.batches(observations, size=150))
    assert [(len(batch), actions) for batch, actions in batches] == [(150, None), (50, None)]
    assert set(anatomy.measure(batches)) == set(anatomy.batchnorm_modules())
    summary = Distortion(anatomy, observations).summary()
    assert all(summary[name] == pytest.approx(0.0, abs=1e-5) for name in summary if name.endswith("l2"))
