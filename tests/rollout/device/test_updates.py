"""Captured gradient steps learn what SB3 learns, follow what changes, and never wait for the device."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from daft_rl.finetune.tuner import Tuner
from daft_rl.method import Group, Method
from daft_rl.rollout.device.updates import WARM_UP, Updates
from tests.learner.test_gradient_steps import (
    BATCH,
    LEARNERS,
    assert_same,
    minibatches,
    prepared,
    train_by_sb3,
    train_by_steps,
)
from tests.rollout.device.waiting import NeverWaits


class Captures(Updates):
    """Counts captures."""

    count = 0

    def _capture(self, run: Any) -> Any:
        self.count += 1
        return super()._capture(run)


def updates_of(model: Any) -> Captures:
    batch = minibatches()[0]
    return Captures(model, lambda _: batch, captured=True)


@pytest.mark.parametrize("name", LEARNERS)
def test_captured_steps_learn_what_sb3_learns(name: str) -> None:
    """Up to rounding. Adam's ``eps`` is large, or it would blow up the rounding of gradients that are zero, such as
    those of a bias before BatchNorm."""
    ours, theirs = prepared(name), prepared(name)
    for model in (ours, theirs):
        for optimizer in (model.actor.optimizer, model.critic.optimizer):
            optimizer.param_groups[0]["eps"] = 1e-2
    for seed, rate in enumerate((1e-3, 3e-4)):
        for model in (ours, theirs):
            model.lr_schedule = lambda _, rate=rate: rate
        train_by_sb3(theirs, minibatches(seed), (3, 4))
        train_by_steps(ours, minibatches(seed), (3, 4), captured=True)
    assert_same(ours, theirs, tolerance=1e-5)


def test_a_learning_rate_that_changes_reaches_the_graph() -> None:
    model = prepared("SAC")
    updates = updates_of(model)
    updates.train(3 * WARM_UP, BATCH)
    before = [parameter.clone() for parameter in model.actor.parameters()]
    model.lr_schedule = lambda _: 0.0
    updates.train(2, BATCH)
    assert updates.count == 1
    assert all(map(torch.equal, model.actor.parameters(), before))


def test_optimizers_keep_the_settings_that_archives_hold() -> None:
    model = prepared("SAC")
    before = [{**group, "params": None} for group in model.actor.optimizer.param_groups]
    updates_of(model).train(2 * WARM_UP, BATCH)
    assert [{**group, "params": None} for group in model.actor.optimizer.param_groups] == before


@pytest.mark.parametrize("change", ["frozen", "optimizer", "moments", "batch size", "nothing"])
def test_a_graph_is_captured_anew_when_what_it_holds_is_replaced(change: str) -> None:
    model = prepared("SAC")
    updates = updates_of(model)
    updates.train(2 * WARM_UP, BATCH)
    size = BATCH
    if change == "frozen":
        next(model.actor.parameters()).requires_grad_(False)
    if change == "optimizer":
        old = model.actor.optimizer
        model.actor.optimizer = type(old)(model.actor.parameters(), lr=1e-3)
        model.actor.optimizer.load_state_dict(old.state_dict())
    if change == "moments":
        model.critic.optimizer.load_state_dict(copy.deepcopy(model.critic.optimizer.state_dict()))
    if change == "batch size":
        size += 1
    for _ in range(2):
        updates.train(2 * WARM_UP, size)
    assert updates.count == 1 + (change != "nothing")


@pytest.mark.parametrize("name", LEARNERS)
def test_nothing_waits_for_the_device(name: str) -> None:
    model = prepared(name)
    Tuner(model, Method(name="mine", actor_encoder=Group(frozen_until=0.5), l2_sp=0.01))
    updates = updates_of(model)
    with NeverWaits():
        updates.train(4 * WARM_UP, BATCH)
    assert updates.count == (1 if name in ("SAC", "TQC", "DDPG") else 2)
    assert updates.mean_losses()["critic_loss"] > 0.0
    assert updates.mean_losses() == {}


def test_the_check_finds_what_waits() -> None:
    with NeverWaits(), pytest.raises(AssertionError, match="waits for the device"):
        float(torch.ones(2).sum())
