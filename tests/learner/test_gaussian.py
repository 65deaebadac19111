"""Actions, log-probabilities and entropy of a quick Gaussian are those of SB3's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from stable_baselines3.common.distributions import DiagGaussianDistribution, kl_divergence

from daft_rl.learner.gaussian import QuickGaussian


def given(by_state: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(6, 3, requires_grad=True), torch.randn((6, 3) if by_state else 3, requires_grad=True)


@pytest.mark.parametrize("by_state", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
def test_it_equals_sb3s(deterministic: bool, by_state: bool) -> None:
    results = []
    for cls in (DiagGaussianDistribution, QuickGaussian):
        mean, log_std = given(by_state)
        distribution: Any = cls(3).proba_distribution(mean, log_std)
        torch.manual_seed(1)
        actions = distribution.get_actions(deterministic)
        log_prob, entropy = distribution.log_prob(actions.detach() + 0.1), distribution.entropy()
        gradients = torch.autograd.grad((actions.sum(1) + log_prob + entropy).sum(), (mean, log_std))
        results.append([actions, log_prob, entropy, *gradients])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_copy_stays_as_it_was_when_the_parameters_move() -> None:
    mean, log_std = given()
    distribution = QuickGaussian(3).proba_distribution(mean, log_std)
    before = copy.copy(distribution)
    log_std.data += 1.0
    distribution.proba_distribution(mean, log_std)
    assert (kl_divergence(before, distribution) > 0).all()


@pytest.mark.parametrize("which", ["mean", "log_std"])
def test_what_is_not_a_number_is_refused_as_by_sb3(which: str) -> None:
    for cls in (DiagGaussianDistribution, QuickGaussian):
        parts = dict(zip(("mean_actions", "log_std"), given(), strict=True))
        parts["mean_actions" if which == "mean" else "log_std"].data[0] = float("nan")
        with pytest.raises(ValueError, match=r"Expected parameter (loc|scale)"):
            cls(3).proba_distribution(**parts)
