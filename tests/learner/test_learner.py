"""A learner is put into an agent, and leaves nothing of itself in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from torch import nn

import daft_rl
from daft_rl.errors import MethodError
from daft_rl.finetune.tuner import Tuner
from daft_rl.learner import learner as module
from daft_rl.learner.adam import QuickAdam
from daft_rl.learner.chain import Chain
from daft_rl.learner.gaussian import QuickGaussian
from daft_rl.learner.learner import Learner
from daft_rl.method import find_method
from tests.conftest import PointMass, algorithms, build


def parts(model: Any) -> set[type]:
    """The classes of modules and optimizers."""
    optimizers = [getattr(owner, "optimizer", None) for owner in model.policy.modules()]
    further = [getattr(model, "ent_coef_optimizer", None), getattr(model.policy, "action_dist", None)]
    return {type(part) for part in [*model.policy.modules(), *optimizers, *further]}


@pytest.mark.parametrize("name", algorithms())
def test_a_detached_agent_is_what_it_was(name: str) -> None:
    model = build(name)
    before = parts(model)
    tuner = Tuner(model, find_method("ft_eval"), kernels="onednn")
    assert parts(model) & {Chain, QuickAdam, QuickGaussian}
    tuner.detach()
    assert parts(model) == before


@pytest.mark.parametrize("name", ["PPO", "SAC", "CrossQ"])
def test_an_archive_saved_meanwhile_acts_the_same_in_plain_sb3(name: str, tmp_path: Path) -> None:
    model = build(name)
    adaptation = daft_rl.adapt(model, method="ft_eval", experience=np.random.randn(64, 3), kernels="onednn")
    model.learn(96, callback=adaptation)
    model.save(tmp_path / "agent")
    plain = type(model).load(tmp_path / "agent", device="cpu")
    assert not parts(plain) & {Chain, QuickAdam, QuickGaussian}
    seen = np.random.randn(20, 3).astype(np.float32)
    expected, _ = model.predict(seen, deterministic=True)
    np.testing.assert_allclose(plain.predict(seen, deterministic=True)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["PPO", "SAC", "TD3", "CrossQ"])
def test_equal_seeds_give_equal_bits(name: str) -> None:
    learnt = []
    for _ in range(2):
        model = build(name)
        adaptation = daft_rl.adapt(model, method="daft", calibration_steps=64, seed=1)
        model.learn(128, callback=adaptation)
        learnt.append(model.policy.state_dict())
    assert all(torch.equal(value, learnt[1][key]) for key, value in learnt[0].items())


def test_plain_kernels_leave_all_to_sb3() -> None:
    model = build("SAC")
    tuner = Tuner(model, find_method("ft_eval"), kernels="plain")
    assert tuner.learner.training is None
    assert not parts(model) & {Chain, QuickAdam, QuickGaussian}


def test_batchnorm_that_a_method_keeps_in_evaluation_mode_keeps_its_statistics_in_chains() -> None:
    """The hook that pins a layer's mode is called before a chain runs."""
    model = build("CrossQ")
    kept = {name: value.clone() for name, value in model.policy.named_buffers() if name.endswith(("mean", "var"))}
    adaptation = daft_rl.adapt(
        model, method="ft_eval", experience=np.random.randn(64, 3), kernels="onednn", actor_scale=1.0
    )
    model.learn(96, callback=adaptation)
    assert all(torch.equal(value, kept[name]) for name, value in model.policy.named_buffers() if name in kept)


@pytest.mark.parametrize(
    ("capability", "vendor", "chains"),
    [("AVX512", "AuthenticAMD", True), ("AVX512", "GenuineIntel", False), ("AVX2", "AuthenticAMD", False)],
)
def test_auto_takes_onednn_on_amds_processors_with_avx512(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capability: str, vendor: str, chains: bool
) -> None:
    described = tmp_path / "cpuinfo"
    described.write_text(f"vendor_id : {vendor}\n")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr("daft_rl.learner.products.CPUINFO", described)
    module.is_amd_with_avx512.cache_clear()
    model = SAC("MlpPolicy", PointMass(), buffer_size=100, device="cpu")
    Learner(model, "auto").attach()
    module.is_amd_with_avx512.cache_clear()
    assert (Chain in parts(model)) is (chains and module.has_onednn())


def test_a_line_search_keeps_plain_networks() -> None:
    model = build("TRPO")
    Learner(model, "onednn").attach()
    assert Chain not in parts(model)
    assert nn.Sequential in parts(model)


def test_a_train_of_a_users_own_keeps_plain_networks() -> None:
    """It may take gradients of gradients."""
    model = build("SAC")
    model.__class__ = type("MySAC", (SAC,), {"train": lambda self, *given, **named: None})
    Learner(model, "onednn").attach()
    assert Chain not in parts(model)


def test_unknown_kernels_are_refused() -> None:
    with pytest.raises(MethodError, match=r"Unknown kernels 'mkl'\. There are: auto, torch, onednn, plain"):
        daft_rl.adapt(build("PPO"), kernels="mkl")
