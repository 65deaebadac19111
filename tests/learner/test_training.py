"""What stands in for SB3's ``train`` learns and logs what SB3 does, up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.learner.learner import Learner
from tests.conftest import PointMass, build
from tests.learner.test_gradient_steps import BATCH, LEARNERS, assert_same, minibatches, prepared

UNLOGGED = ("train/learning_rate", "train/explained_variance")


def trained(model: Any, train: Callable[[], None]) -> dict[str, float]:
    """Train from fixed random numbers; returns what was logged."""
    torch.manual_seed(3)
    np.random.seed(3)
    train()
    return {
        name: float(value)
        for name, value in model.logger.name_to_value.items()
        if name.startswith("train/") and name not in UNLOGGED
    }


def with_sgd(model: Any) -> Any:
    """Adam divides gradients that are zero up to rounding, such as a bias's before BatchNorm, by their own size."""
    for network in (model.actor, model.critic):
        network.optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
    return model


@pytest.mark.parametrize("kernels", ["torch", "onednn"])
@pytest.mark.parametrize("name", LEARNERS)
def test_an_off_policy_algorithm_learns_what_it_does_by_sb3(name: str, kernels: str) -> None:
    theirs, ours = with_sgd(prepared(name)), with_sgd(prepared(name))
    learner = Learner(ours, kernels)
    learner.attach()
    assert learner.training is not None
    logged = []
    for model, train in ((theirs, theirs.train), (ours, learner.training.train)):
        batches = iter(minibatches())
        model.replay_buffer.sample = lambda *_, batches=batches, **__: next(batches)
        logged.append(trained(model, lambda train=train: train(gradient_steps=5, batch_size=BATCH)))  # type: ignore[misc]
    learner.detach()
    assert_same(ours, theirs, 2e-4)
    assert logged[0] == pytest.approx(logged[1], rel=1e-3, abs=1e-5)


def rollout(**settings: Any) -> Any:
    """PPO with a rollout that its policy has moved away from."""
    model = build("PPO", n_steps=64, batch_size=24, **settings)
    model.learn(64)
    for parameter in model.policy.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"shared": True},
        {"clip_range_vf": 0.1, "ent_coef": 0.03, "vf_coef": 0.9},
        {"normalize_advantage": False, "max_grad_norm": 1e-3},
        {"target_kl": 0.04, "n_epochs": 3},
    ],
)
def test_ppo_learns_what_it_does_by_sb3(settings: dict[str, Any]) -> None:
    theirs, ours = rollout(**settings), rollout(**settings)
    learner = Learner(ours, "torch")
    learner.attach()
    assert learner.training is not None
    before = [parameter.detach().clone() for parameter in ours.policy.parameters()]
    expected, logged = trained(theirs, theirs.train), trained(ours, learner.training.train)
    for one, other in zip(theirs.policy.parameters(), ours.policy.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
    assert any(not torch.equal(one, other) for one, other in zip(before, ours.policy.parameters(), strict=True))
    assert logged == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_gradient_of_ppos_loss_is_that_of_finite_differences() -> None:
    from daft_rl.learner.clipped_objective import ClippedObjective, Coefficients

    torch.manual_seed(0)
    model = rollout()
    batch = next(model.rollout_buffer.get(16))
    batch = type(batch)(*(None if part is None else part.double() for part in batch))
    mean, values = torch.randn(16, 2, dtype=torch.float64), torch.randn(16, dtype=torch.float64)
    given = (mean.requires_grad_(), torch.zeros(2, dtype=torch.float64).requires_grad_(), values.requires_grad_())
    by = Coefficients(0.2, 0.3, 0.01, 0.5)

    def loss(*inputs: torch.Tensor) -> torch.Tensor:
        return ClippedObjective.apply(*inputs, batch, batch.advantages, by)[0]

    assert torch.autograd.gradcheck(loss, given)


def _categorical() -> BaseAlgorithm:
    return PPO("MlpPolicy", PointMass(discrete=True), n_steps=64, batch_size=32, device="cpu")


def _state_dependent() -> BaseAlgorithm:
    return PPO("MlpPolicy", PointMass(), n_steps=64, batch_size=32, use_sde=True, device="cpu")


def _own_train() -> BaseAlgorithm:
    model = rollout()
    model.__class__ = type("MyPPO", (PPO,), {"train": lambda self: None})
    return model


@pytest.mark.parametrize(
    "make", [_categorical, _state_dependent, _own_train, lambda: build("A2C"), lambda: build("DQN")]
)
def test_what_we_have_no_update_for_is_left_to_sb3(make: Callable[[], BaseAlgorithm]) -> None:
    learner = Learner(make(), "torch")
    learner.attach()
    assert learner.training is None
