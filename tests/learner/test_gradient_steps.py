"""Gradient steps equal those of SB3's ``train``: from the same minibatches, everything that is learnt is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from daft_rl.errors import AgentError
from daft_rl.finetune.tuner import Tuner
from daft_rl.learner.gradient_steps import gradient_step
from daft_rl.method import Group, Method
from daft_rl.rollout.device.updates import Updates
from tests.conftest import build

LEARNERS = ("SAC", "TD3", "DDPG", "TQC", "CrossQ")
STEPS = 7
BATCH = 16


def minibatches(seed: int = 0) -> list[ReplayBufferSamples]:
    """As many as there are steps, of made-up transitions of the tests' small task."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng)

    return [
        ReplayBufferSamples(
            normal(BATCH, 3) + 2,
            normal(BATCH, 2).tanh(),
            normal(BATCH, 3) + 2,
            (normal(BATCH, 1) > 1).float(),
            normal(BATCH, 1),
        )
        for _ in range(STEPS)
    ]


def prepared(name: str, **settings: Any) -> Any:
    model = build(name, **settings)
    model.set_logger(Logger(None, []))
    return model


def train_by_sb3(model: Any, batches: list[ReplayBufferSamples], calls: tuple[int, ...]) -> dict[str, float]:
    """Let SB3 learn from the minibatches; returns what it logged last."""
    remaining = iter(batches)
    model.replay_buffer.sample = lambda *_, **__: next(remaining)
    torch.manual_seed(3)
    for steps in calls:
        model.train(gradient_steps=steps, batch_size=BATCH)
    logged = model.logger.name_to_value.items()
    return {name: float(value) for name, value in logged if name.startswith("train/") and name != "train/learning_rate"}


def train_by_steps(
    model: Any, batches: list[ReplayBufferSamples], calls: tuple[int, ...], captured: bool = False
) -> dict[str, float]:
    """Let our steps learn from the minibatches; returns mean losses of the last call."""
    remaining = iter(batches)
    updates = Updates(model, lambda _: next(remaining), captured)
    torch.manual_seed(3)
    losses = {}
    for steps in calls:
        updates.train(steps, BATCH)
        losses = updates.mean_losses()
    return losses


def learnt(model: BaseAlgorithm) -> dict[str, torch.Tensor]:
    """Everything that a step changes: weights, running statistics, moments, the temperature."""
    algorithm: Any = model
    found = {f"policy.{name}": value for name, value in model.policy.state_dict().items()}
    optimizers = {"actor": algorithm.actor.optimizer, "critic": algorithm.critic.optimizer}
    if getattr(algorithm, "ent_coef_optimizer", None) is not None:
        found["log_ent_coef"] = algorithm.log_ent_coef.detach()
        optimizers["ent_coef"] = algorithm.ent_coef_optimizer
    for where, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            for i, parameter in enumerate(group["params"]):
                for key, value in optimizer.state[parameter].items():
                    found[f"{where}.{group.get('name')}.{i}.{key}"] = value
    return found


def assert_same(ours: BaseAlgorithm, theirs: BaseAlgorithm, tolerance: float = 0.0) -> None:
    a, b = learnt(ours), learnt(theirs)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize(
    ("name", "shared"),
    [(name, shared) for name in LEARNERS for shared in (False, True) if not (shared and name == "CrossQ")],
)
def test_all_that_is_learnt_equals_sb3_bit_for_bit(name: str, shared: bool) -> None:
    """In several calls, since what happens every second step counts across calls with some algorithms."""
    ours, theirs = prepared(name, shared=shared), prepared(name, shared=shared)
    assert_same(ours, theirs)
    before = {key: value.clone() for key, value in learnt(ours).items()}
    logged = train_by_sb3(theirs, minibatches(), (2, 1, 4))
    losses = train_by_steps(ours, minibatches(), (2, 1, 4))
    assert_same(ours, theirs)
    assert any(not torch.equal(before[key], value) for key, value in learnt(ours).items() if key in before)
    assert logged.pop("train/n_updates") == ours._n_updates == STEPS
    assert {f"train/{key}" for key in losses} == logged.keys()
    for key, value in losses.items():
        assert value == pytest.approx(logged[f"train/{key}"], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SAC", {"target_update_interval": 3}),
        ("SAC", {"ent_coef": 0.1}),
        ("SAC", {"use_sde": True}),
        ("TQC", {"top_quantiles_to_drop_per_net": 5}),
        ("TD3", {"policy_delay": 3}),
        ("CrossQ", {"ent_coef": "auto_0.1", "policy_delay": 1}),
    ],
)
def test_settings_of_the_algorithms_take_effect_as_in_sb3(name: str, settings: dict[str, Any]) -> None:
    ours, theirs = prepared(name, **settings), prepared(name, **settings)
    train_by_sb3(theirs, minibatches(), (3, 4))
    train_by_steps(ours, minibatches(), (3, 4))
    assert_same(ours, theirs)


@pytest.mark.parametrize("name", LEARNERS)
def test_rates_by_part_and_frozen_parts_stay_those_of_the_method(name: str) -> None:
    """The encoder is frozen at first, its rate is smaller later, and weights are pulled to their start."""
    method = Method(
        name="mine",
        actor_encoder=Group(scale=0.1, frozen_until=0.5),
        critic_encoder=Group(scale=0.3, frozen_until=0.5),
        l2_sp=0.01,
    )
    ours, theirs = prepared(name), prepared(name)
    for model in (ours, theirs):
        Tuner(model, method, kernels="plain")
        model._current_progress_remaining = 0.9
    first, second = minibatches(0), minibatches(1)
    encoder = {key: value.clone() for key, value in learnt(ours).items() if "features_extractor" in key}
    train_by_sb3(theirs, first, (STEPS,))
    train_by_steps(ours, first, (STEPS,))
    assert_same(ours, theirs)
    for key, value in encoder.items():
        if key.startswith(("policy.actor.", "policy.critic.")) and key.endswith(("weight", "bias")):
            torch.testing.assert_close(learnt(ours)[key], value, rtol=0, atol=0)
    for model in (ours, theirs):
        model._current_progress_remaining = 0.4
    train_by_sb3(theirs, second, (STEPS,))
    train_by_steps(ours, second, (STEPS,))
    assert_same(ours, theirs)
    assert any(not torch.equal(learnt(ours)[key], value) for key, value in encoder.items())


def test_an_algorithm_with_a_train_of_its_own_is_refused() -> None:
    class MySAC(SAC):
        def train(self, gradient_steps: int, batch_size: int = 64) -> None: ...

    model = prepared("SAC")
    model.__class__ = MySAC
    with pytest.raises(AgentError, match=r"MySAC learns by a `train` of its own.*SAC, TD3, TQC, CrossQ"):
        gradient_step(model)
    np.testing.assert_equal(gradient_step(prepared("DDPG")).delayed(0), True)
