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


@pytest.mark.parametrize("name", ["PPO", *LEARNERS])
def test_a_part_that_is_frozen_after_it_has_learnt_rests(name: str) -> None:
    """Its gradient is still there, and an optimizer steps whatever has one."""
    model: Any = rollout() if name == "PPO" else prepared(name)
    learner = Learner(model, "torch")
    learner.attach()
    assert learner.training is not None
    owners = [model.policy] if name == "PPO" else [model.actor, model.critic]

    def train() -> None:
        if name == "PPO":
            learner.training.train()  # type: ignore[union-attr]
            return
        batches = iter(minibatches())
        model.replay_buffer.sample = lambda *_, **__: next(batches)
        learner.training.train(gradient_steps=6, batch_size=BATCH)  # type: ignore[union-attr]

    train()
    frozen = [group["params"][0] for owner in owners for group in owner.optimizer.param_groups]
    others = [group["params"][-1] for owner in owners for group in owner.optimizer.param_groups]
    assert all(parameter.grad is not None for parameter in frozen)
    before = [parameter.requires_grad_(False).clone() for parameter in frozen]
    moved = [parameter.detach().clone() for parameter in others]
    train()
    assert all(torch.equal(parameter, old) for parameter, old in zip(frozen, before, strict=True))
    assert not any(torch.equal(parameter, old) for parameter, old in zip(others, moved, strict=True))


@pytest.mark.parametrize("scale", [1e-6, 1e-9, 1.0, float("nan")])
def test_ppo_clips_gradients_as_pytorch_does(scale: float) -> None:
    model = rollout(max_grad_norm=1e-6)
    model.policy.optimizer = torch.optim.SGD(model.policy.parameters(), lr=1.0)
    parameter = model.policy.value_net.bias
    learner = Learner(model, "torch")
    learner.attach()
    learner.training._descend(scale * parameter.sum())  # type: ignore[union-attr]
    found = parameter.grad.clone()
    parameter.grad = torch.full_like(parameter, scale)
    torch.nn.utils.clip_grad_norm_([parameter], 1e-6)
    torch.testing.assert_close(found, parameter.grad, equal_nan=True)


def test_a_shared_extractor_of_two_networks_is_called_once_as_by_sb3() -> None:
    model = rollout(shared=True)
    seen = []
    model.policy.mlp_extractor.register_forward_hook(lambda *_: seen.append(1))
    learner = Learner(model, "torch")
    learner.attach()
    learner.training.train()  # type: ignore[union-attr]
    assert len(seen) == model.n_epochs * 3


def test_early_stopping_is_told_as_by_sb3(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for ours in (False, True):
        model = rollout(target_kl=1e-6, verbose=1)
        learner = Learner(model, "torch")
        learner.attach()
        capsys.readouterr()
        trained(model, learner.training.train if ours and learner.training else model.train)
        told.append(capsys.readouterr().out)
    assert "Early stopping at step 0 due to reaching max kl" in told[0]
    assert told[0] == told[1]


def test_an_actor_that_gives_no_numbers_ends_ppos_update_as_by_sb3() -> None:
    model = rollout()
    learner = Learner(model, "torch")
    learner.attach()
    model.policy.action_net.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="Expected parameter loc"):
        learner.training.train()  # type: ignore[union-attr]


def test_a_temperature_of_another_precision_than_the_policys_learns() -> None:
    model = prepared("SAC")
    step = Learner(model, "torch")
    step.attach()
    log_prob = torch.randn(BATCH, 1, dtype=torch.float64)
    step.training._step._adjust_temperature(log_prob)  # type: ignore[union-attr]
    expected = -(log_prob.mean() + model.target_entropy)
    torch.testing.assert_close(model.log_ent_coef.grad, expected.float().reshape(1))


def test_what_the_actor_learns_has_a_gradient_through_the_critic_too() -> None:
    """A policy of a user's own may share layers between the two."""
    model = prepared("SAC")
    model.critic.encoder = model.actor.latent_pi
    learner = Learner(model, "torch")
    learner.attach()
    with learner.training._step._constant(model.critic):  # type: ignore[union-attr]
        assert all(parameter.requires_grad for parameter in model.actor.parameters())
        assert not any(parameter.requires_grad for parameter in model.critic.qf0.parameters())
    assert all(parameter.requires_grad for parameter in model.critic.parameters())


def _categorical() -> BaseAlgorithm:
    return PPO("MlpPolicy", PointMass(discrete=True), n_steps=64, batch_size=32, device="cpu")


def _state_dependent() -> BaseAlgorithm:
    return PPO("MlpPolicy", PointMass(), n_steps=64, batch_size=32, use_sde=True, device="cpu")


def _own_train() -> BaseAlgorithm:
    model = rollout()
    model.__class__ = type("MyPPO", (PPO,), {"train": lambda self: None})
    return model


def _wrapped_policy() -> BaseAlgorithm:
    model = rollout()
    evaluate = model.policy.evaluate_actions
    model.policy.evaluate_actions = lambda *given: evaluate(*given)
    return model


def _parameter_without_optimizer() -> BaseAlgorithm:
    """By its gradient, which SB3 never sets back to zero, SB3 clips the others."""
    model = rollout()
    model.policy.scale = torch.nn.Parameter(torch.ones(1))
    return model


@pytest.mark.parametrize(
    "make",
    [
        _categorical,
        _state_dependent,
        _own_train,
        _wrapped_policy,
        _parameter_without_optimizer,
        lambda: build("A2C"),
        lambda: build("DQN"),
    ],
)
def test_what_we_have_no_update_for_is_left_to_sb3(make: Callable[[], BaseAlgorithm]) -> None:
    learner = Learner(make(), "torch")
    learner.attach()
    assert learner.training is None
