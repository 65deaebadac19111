"""Fused batch renormalization computes the same numbers as sb3-contrib's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import CrossQ
from sb3_contrib.common.torch_layers import BatchRenorm1d

from daft_rl.agents import fuse_batch_renorm
from daft_rl.agents.renorm import Renormalize
from tests.conftest import build


def pair(dtype: torch.dtype, warmup_steps: int) -> tuple[BatchRenorm1d, BatchRenorm1d]:
    """A layer with made-up state, and its fused copy."""
    plain: Any = BatchRenorm1d(32, warmup_steps=warmup_steps).to(dtype)
    with torch.no_grad():
        for tensor in (plain.ra_mean, plain.scale, plain.bias):
            tensor.normal_()
        plain.ra_var.uniform_(0.01, 2.0)
        plain.steps += 5
    fast = copy.deepcopy(plain)
    fuse_batch_renorm(fast)
    return plain, fast


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("warmup_steps", [0, 100])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_outputs_gradients_and_statistics_are_the_same(
    dtype: torch.dtype, tolerance: float, warmup_steps: int, training: bool
) -> None:
    plain, fast = pair(dtype, warmup_steps)
    x = torch.randn(64, 32, dtype=dtype) * torch.logspace(-3, 1, 32, dtype=dtype) + torch.randn(32, dtype=dtype)
    gradient = torch.randn(64, 32, dtype=dtype)
    seen = []
    for layer in (plain, fast):
        layer.train(training)
        inputs = x.clone().requires_grad_()
        outputs = layer(inputs)
        outputs.backward(gradient)
        seen.append([outputs.detach(), inputs.grad, layer.scale.grad, layer.bias.grad, layer.ra_mean, layer.ra_var])
    for ours, theirs in zip(*seen, strict=True):
        assert relative(ours, theirs) < tolerance
    assert plain.steps == fast.steps == 5 + training


@pytest.mark.parametrize("training", [True, False])
def test_sequences_are_normalized_as_by_sb3_contrib(training: bool) -> None:
    plain: Any
    plain, fast = pair(torch.float64, 0)
    x = torch.randn(64, 5, 32, dtype=torch.float64)
    plain.ra_mean, plain.ra_var = (torch.zeros(5, 32), torch.ones(5, 32)) if training else (plain.ra_mean, plain.ra_var)
    fast.ra_mean, fast.ra_var = plain.ra_mean.clone(), plain.ra_var.clone()
    outputs = [layer.train(training)(x) for layer in (plain, fast)]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("warmup_steps", [0, 100])
def test_gradients_are_derivatives(warmup_steps: int) -> None:
    """``r`` and ``d`` are constants for the gradient: here both are clipped, or not in use yet."""
    plain: Any = BatchRenorm1d(3, warmup_steps=warmup_steps).double()
    plain.steps += 5
    plain.ra_var.fill_(1e-6)
    plain.ra_mean.copy_(torch.tensor([-90.0, 90.0, 80.0]))
    x, scale, bias = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((7, 3), (3,), (3,)))

    def normalize(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        layer = copy.deepcopy(plain)
        layer.scale.data, layer.bias.data = scale.detach(), bias.detach()
        return Renormalize.apply(layer, x, scale, bias)

    assert torch.autograd.gradcheck(normalize, (x, scale, bias))


def test_plain_sb3_opens_the_archives(tmp_path: Path) -> None:
    model = build("CrossQ")
    fuse_batch_renorm(model.policy)
    model.learn(60)
    model.save(tmp_path / "agent")
    plain = CrossQ.load(tmp_path / "agent")
    observation = np.ones((5, 3), np.float32)
    np.testing.assert_allclose(
        plain.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0], rtol=1e-5
    )
    copied = copy.deepcopy(model.policy)
    copied.load_state_dict(plain.policy.state_dict())
