"""A critic that learns in a thread of its own learns the same, bit for bit."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl import critic_thread as module
from daft_rl.critic_thread import critic_thread, has_own_critic
from daft_rl.methods import Group, Method
from daft_rl.tuning import Tuner
from tests.conftest import ALGORITHMS, PointMass, build


@pytest.fixture(autouse=True)
def _a_core_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "spare_core", lambda: True)


def threads_of_gradients(model: Any) -> dict[str, set[str]]:
    """Where the gradients of heads come from while the model learns: layer -> names of threads."""
    seen: dict[str, set[str]] = {"action_net": set(), "value_net": set()}
    for name, threads in seen.items():
        model.policy.get_submodule(name).weight.register_post_accumulate_grad_hook(
            lambda _, threads=threads: threads.add(threading.current_thread().name)
        )
    return seen


def learn(algorithm: str, method: Method, in_thread: bool, **settings: Any) -> dict[str, torch.Tensor]:
    model = build(algorithm, **settings)
    Tuner(model, method)
    with critic_thread(model) if in_thread else nullcontext():
        model.learn(256)
    return model.policy.state_dict()


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
@pytest.mark.parametrize(
    "method",
    [
        Method(name="plain"),
        Method(name="evaluation mode", bn_mode="eval"),
        Method(name="penalty", l2_sp=0.1),
        Method(name="actor later", actor_encoder=Group(frozen_until=0.5), actor_head=Group(frozen_until=0.5)),
        Method(name="critic later", critic_encoder=Group(frozen_until=0.5), critic_head=Group(frozen_until=0.5)),
    ],
    ids=lambda method: method.name,
)
def test_learning_is_the_same(algorithm: str, method: Method) -> None:
    expected, actual = (learn(algorithm, method, in_thread) for in_thread in (False, True))
    for name in expected:
        assert torch.equal(expected[name], actual[name]), name


def test_only_the_critics_gradients_come_from_the_thread() -> None:
    model = build("PPO")
    seen = threads_of_gradients(model)
    with critic_thread(model):
        model.learn(64)
    assert seen == {"action_net": {"MainThread"}, "value_net": {"critic_0"}}
    model.learn(64)
    assert seen["value_net"] == {"critic_0", "MainThread"}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("critic")]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_whose_critic_is_its_own(algorithm: str) -> None:
    assert has_own_critic(build(algorithm)) == (algorithm in ("PPO", "A2C"))


def test_a_shared_extractor_is_left_alone() -> None:
    model = build("PPO", shared=True)
    assert not has_own_critic(model)
    seen = threads_of_gradients(model)
    with critic_thread(model):
        model.learn(64)
    assert seen["value_net"] == {"MainThread"}
    assert has_own_critic(PPO("MlpPolicy", PointMass(), device="cpu"))  # shares one that has nothing to learn


@pytest.mark.parametrize(("name", "value"), [("spare_core", lambda: False), ("torch", None)])
def test_without_an_idle_core_there_is_no_thread(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model: BaseAlgorithm = build("PPO")
    if name == "torch":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    else:
        monkeypatch.setattr(module, name, value)
    seen = threads_of_gradients(model)
    with critic_thread(model):
        model.learn(64)
    assert seen["value_net"] == {"MainThread"}


def test_an_error_in_the_thread_is_raised() -> None:
    model: Any = build("PPO")

    def fail(_: Any) -> None:
        raise ValueError("no gradient")

    model.policy.value_net.weight.register_post_accumulate_grad_hook(fail)
    with pytest.raises(ValueError, match="no gradient"), critic_thread(model):
        model.learn(64)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("critic")]
