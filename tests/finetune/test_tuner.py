"""Settings take effect: in every algorithm's optimizer, in what is frozen, and in what is saved."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from daft_rl.batchnorm import batchnorm_layers
from daft_rl.errors import AgentError, MethodError
from daft_rl.finetune.adapt import Adaptation
from daft_rl.finetune.tuner import Tuner
from daft_rl.method import GROUPS, Group, Method
from daft_rl.policy.anatomy import Anatomy
from daft_rl.policy.insertion import insert_batchnorm
from tests.conftest import DISCRETE, PointMass, algorithms, build, data, outputs

EVERY = pytest.mark.parametrize("algorithm", algorithms())
WITH_RATES = pytest.mark.parametrize("algorithm", algorithms("TRPO"))
"""TRPO moves its actor by a line search; what it cannot do is refused."""


class Recorder(BaseCallback):
    """Reads, at every optimizer step, what the optimizer really has."""

    def __init__(self, model: BaseAlgorithm, tuner: Tuner) -> None:
        super().__init__()
        self.seen: list[tuple[float, str, float]] = []
        for optimizer in tuner.anatomy.optimizers().values():
            optimizer.register_step_pre_hook(self._record)

    def _record(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        progress = 1.0 - self.model._current_progress_remaining
        self.seen += [(progress, group["name"], group["lr"]) for group in optimizer.param_groups]

    def _on_step(self) -> bool:
        return True


def alike(group: Group) -> Method:
    """A method that treats every group of parameters the same."""
    groups: dict[str, Any] = dict.fromkeys(GROUPS, group)
    return Method(name="mine", **groups)


def state(model: BaseAlgorithm) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


@EVERY
def test_every_parameter_has_one_group(algorithm: str) -> None:
    model = build(algorithm)
    anatomy = Anatomy(model.policy)
    online = {id(p) for name, p in model.policy.named_parameters() if "_target" not in name}
    grouped = [id(p) for group in anatomy.groups.values() for p in group.values()]
    assert sorted(grouped) == sorted(online)
    assert anatomy.groups["critic_head"]
    assert anatomy.groups["critic_encoder"]
    assert bool(anatomy.groups["actor_head"]) == (algorithm not in DISCRETE)


@pytest.mark.parametrize(
    ("algorithm", "head"),
    [
        ("PPO", {"action_net.weight", "action_net.bias", "log_std", "value_net.weight", "value_net.bias"}),
        (
            "SAC",
            {
                *(f"actor.{layer}.{kind}" for layer in ("mu", "log_std") for kind in ("weight", "bias")),
                *(f"critic.qf{i}.2.{kind}" for i in (0, 1) for kind in ("weight", "bias")),
            },
        ),
    ],
)
def test_heads_are_the_last_linear_layers(algorithm: str, head: set[str]) -> None:
    anatomy = Anatomy(build(algorithm).policy)
    assert {*anatomy.groups["actor_head"], *anatomy.groups["critic_head"]} == head


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_shared_extractor_belongs_to_the_actor(algorithm: str) -> None:
    anatomy = Anatomy(build(algorithm, shared=True).policy)
    assert any("features_extractor" in name for name in anatomy.groups["actor_encoder"])
    assert not any("features_extractor" in name for name in anatomy.groups["critic_encoder"])


@WITH_RATES
def test_learning_rates_in_the_optimizers_are_the_intended_ones(algorithm: str) -> None:
    model = build(algorithm, learning_rate=lambda remaining: 1e-3 * (1 + remaining))
    method = Method(
        name="mine",
        actor_encoder=Group(scale=0.1, decay="cosine"),
        actor_head=Group(scale=0.5, decay="linear"),
        critic_encoder=Group(frozen_until=0.3, rise_until=0.8),
        critic_head=Group(scale=2.0),
    )
    tuner = Tuner(model, method, actor_scale=1.0)
    recorder = Recorder(model, tuner)
    model.learn(256, callback=recorder)
    assert len({progress for progress, _, _ in recorder.seen}) >= 4
    for progress, name, rate in recorder.seen:
        base = 1e-3 * (2 - progress)
        assert rate == pytest.approx(base * method.groups[name].rate(progress), abs=1e-12)
    expected = set(GROUPS) - ({"actor_encoder", "actor_head"} if algorithm in DISCRETE else set())
    assert {name for _, name, _ in recorder.seen} == expected


@pytest.mark.parametrize(("init", "factor"), [("keep", 0.1), ("random", 1.0)])
def test_scale_of_the_actor_is_for_actors_that_know_something(init: Literal["keep", "random"], factor: float) -> None:
    model = build("CrossQ", learning_rate=1e-3)
    recorder = Recorder(model, Tuner(model, alike(Group(scale=0.5, init=init)), actor_scale=0.1))
    model.learn(60, callback=recorder)
    rates = {name: rate for _, name, rate in recorder.seen}
    expected = {name: 5e-4 * (factor if name.startswith("actor") else 1.0) for name in GROUPS}
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), "fast"])
def test_a_scale_that_cannot_be_is_refused(scale: Any) -> None:
    with pytest.raises(MethodError, match="actor_scale"):
        Tuner(build("SAC"), Method(name="mine"), actor_scale=scale)


def test_trpo_has_no_rate_that_could_be_scaled() -> None:
    with pytest.raises(MethodError, match="TRPO"):
        Tuner(build("TRPO"), Method(name="mine"), actor_scale=0.5)


def test_entropy_coefficient_keeps_its_learning_rate() -> None:
    model: Any = build("SAC", learning_rate=7e-4)
    Tuner(model, alike(Group(scale=0.01, decay="cosine")))
    model.learn(60)
    assert model.ent_coef_optimizer.param_groups[0]["lr"] == 7e-4


@pytest.mark.parametrize("algorithm", ["SAC", "CrossQ"])
def test_entropy_coefficient_rests_while_the_actor_does(algorithm: str) -> None:
    model: Any = build(algorithm)
    waits = Group(frozen_until=0.75)
    tuner: Any = Tuner(model, Method(name="mine", actor_encoder=waits, actor_head=waits))
    seen = []

    def update(optimizers: list[torch.optim.Optimizer]) -> None:
        Tuner.before_update(tuner, optimizers)
        seen.append((bool(tuner.frozen), model.log_ent_coef.item()))

    tuner.before_update = update
    model.learn(128)
    untrained: Any = build(algorithm)
    start, end = untrained.log_ent_coef.item(), model.log_ent_coef.item()
    assert {value for frozen, value in seen if frozen} == {start}
    assert end != start


@WITH_RATES
@pytest.mark.parametrize("bn_mode", ["train", "eval"])
def test_frozen_encoder_changes_in_no_bit(algorithm: str, bn_mode: Literal["train", "eval"]) -> None:
    model = build(algorithm)
    frozen = Group(frozen_until=1.0)
    tuner = Tuner(model, Method(name="mine", bn_mode=bn_mode, actor_encoder=frozen, critic_encoder=frozen))
    for optimizer in tuner.anatomy.optimizers().values():
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.1
    before = state(model)
    model.learn(128)
    after = state(model)
    for name, value in before.items():
        if "_target" in name:
            continue
        if tuner.anatomy.group_of(name).endswith("encoder"):
            assert torch.equal(value, after[name]), name
    moved = [name for name in before if "_target" not in name and not torch.equal(before[name], after[name])]
    assert any(tuner.anatomy.group_of(name) == "critic_head" for name in moved)


@WITH_RATES
def test_unfrozen_encoder_learns_after_its_time(algorithm: str) -> None:
    model = build(algorithm)
    late = Group(frozen_until=0.5)
    tuner = Tuner(model, Method(name="mine", bn_mode="eval", actor_encoder=late, critic_encoder=late))
    before = state(model)
    model.learn(256)
    encoder = tuner.anatomy.groups["critic_encoder"]
    assert any(not torch.equal(before[name], parameter) for name, parameter in encoder.items())


@EVERY
def test_evaluation_mode_keeps_statistics_and_training_mode_moves_them(algorithm: str) -> None:
    for mode in ("eval", "train"):
        model = build(algorithm)
        tuner = Tuner(model, Method(name="mine", bn_mode=mode))
        before = {name: layer.mean.clone() for name, layer in batchnorm_layers(model.policy).items()}
        model.learn(128)
        for name, layer in batchnorm_layers(model.policy).items():
            if not tuner.anatomy.is_target(name + "."):
                assert torch.equal(before[name], layer.mean) == (mode == "eval"), (mode, name)


@EVERY
@pytest.mark.parametrize("shared", [False, True])
def test_conversion_keeps_every_network(algorithm: str, shared: bool) -> None:
    model: Any = build(algorithm, shared=shared)
    if "critic_target" in dict(model.policy.named_children()):
        with torch.no_grad():  # a target network lags behind: it has a function of its own
            for parameter in model.policy.critic_target.parameters():
                parameter.mul_(1.1)
    observations, actions = data(model)
    obs, act = next(Anatomy(model.policy).batches(observations, actions))
    before = outputs(model, obs, act)
    Tuner(model, Method(name="mine", conversion="once")).convert(observations, actions)
    for old, new in zip(before, outputs(model, obs, act), strict=True):
        assert float((old - new).norm() / old.norm()) < 1e-5
    layers = batchnorm_layers(model.policy)
    first = next(layer for name, layer in layers.items() if "_target" not in name)
    np.testing.assert_allclose(first.mean, observations.mean(0), rtol=1e-4, atol=1e-4)
    # what SB3 copies at each update is equal already: no jump
    if hasattr(model, "batch_norm_stats_target"):
        for online, target in zip(model.batch_norm_stats, model.batch_norm_stats_target, strict=True):
            assert torch.equal(online, target)


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_reconversion_follows_the_data_and_keeps_frozen_layers(algorithm: str) -> None:
    model = build(algorithm)
    frozen = Group(frozen_until=1.0)
    method = Method(name="mine", conversion="each_rollout", bn_mode="eval", actor_encoder=frozen)
    adaptation = Adaptation(model, method, 64)
    tuner = adaptation.tuner
    before = state(model)
    model.learn(256, callback=adaptation)
    after = state(model)
    moved = {
        tuner.anatomy.group_of(name)
        for name in before
        if "running_" in name and "_target" not in name and not torch.equal(before[name], after[name])
    }
    assert moved == {"critic_encoder"}


@EVERY
def test_archives_are_plain(algorithm: str, tmp_path: Path) -> None:
    model = build(algorithm)
    plain_class = type(model)
    tuner = Tuner(model, Method(name="mine", critic_encoder=Group(scale=0.1)))
    model.learn(128)
    model.save(tmp_path / "during.zip")
    tuner.detach()
    assert type(model) is plain_class
    model.save(tmp_path / "after.zip")
    observations = data(model)[0]
    for file in ("during", "after"):
        loaded = plain_class.load(tmp_path / f"{file}.zip", env=model.get_env())
        np.testing.assert_array_equal(
            model.predict(observations, deterministic=True)[0], loaded.predict(observations, deterministic=True)[0]
        )
        for (name, mine), (_, theirs) in zip(
            model.get_parameters().items(), loaded.get_parameters().items(), strict=True
        ):
            if "optimizer" in name:
                assert len(theirs["param_groups"]) == 1
                for index, moments in mine["state"].items():
                    for key, value in moments.items():
                        assert torch.equal(torch.as_tensor(value), torch.as_tensor(theirs["state"][index][key]))
        loaded.learn(80)


def test_detached_agents_can_be_tuned_again() -> None:
    model = build("PPO")
    first = Tuner(model, Method(name="mine"))
    with pytest.raises(MethodError, match="detach"):
        Tuner(model, Method(name="mine"))
    first.detach()
    Tuner(model, Method(name="mine")).detach()
    assert not any(layer.module._forward_pre_hooks for layer in batchnorm_layers(model.policy).values())


@EVERY
def test_initial_weights(algorithm: str) -> None:
    kept, zeroed, random = build(algorithm), build(algorithm), build(algorithm)
    before = state(kept)
    Tuner(kept, Method(name="mine"))
    assert all(torch.equal(value, before[name]) for name, value in state(kept).items())
    tuner = Tuner(zeroed, Method(name="mine", critic_head=Group(init="zero")))
    assert all(not parameter.any() for parameter in tuner.anatomy.groups["critic_head"].values())
    after = state(zeroed)
    for online in ("critic", "q_net", "quantile_net"):
        copies = {name: name.replace(online, f"{online}_target", 1) for name in after if name.startswith(f"{online}.")}
        if algorithm not in ("PPO", "A2C", "TRPO", "CrossQ"):
            assert all(torch.equal(after[name], after[copy]) for name, copy in copies.items())
    Tuner(random, alike(Group(init="random")))
    weights = [name for name in before if name.endswith("weight") and before[name].dim() == 2]
    assert all(not torch.equal(before[name], state(random)[name]) for name in weights)


def test_l2_sp_pulls_back() -> None:
    def distance(coefficient: float) -> float:
        model = build("PPO", learning_rate=1e-2)
        before = state(model)
        Tuner(model, Method(name="mine", bn_mode="eval", l2_sp=coefficient))
        model.learn(512)
        return float(sum((before[name] - p).square().sum() for name, p in model.policy.named_parameters()))

    assert distance(10.0) < 0.5 * distance(0.0)


def test_l2_sp_pulls_a_copy_back_too() -> None:
    """Copies of optimizers have no hooks."""
    model = build("PPO", learning_rate=1e-2)
    Tuner(model, Method(name="mine", bn_mode="eval", l2_sp=10.0))
    twin = copy.deepcopy(model)
    for each in (model, twin):
        each.set_random_seed(0)
        each.learn(128)
    assert all(torch.equal(value, state(twin)[name]) for name, value in state(model).items())


def test_source_acts_by_its_policy_before_learning_starts() -> None:
    model: Any = build("SAC", learning_starts=1000)
    Tuner(model, Method(name="mine"))
    with torch.no_grad():
        for layer, value in ((model.actor.mu, 5.0), (model.actor.log_std, -5.0)):
            layer.weight.zero_()
            layer.bias.fill_(value)  # always close to the upper bound
    model.learn(30)
    assert (model.replay_buffer.actions[:30] > 0.9).all()


def recorded(measure: Callable[[], float], values: list[float]) -> Callable[[], float]:
    def measured() -> float:
        values.append(measure())
        return values[-1]

    return measured


def test_first_minibatch_kl_shows_the_jump_of_training_mode() -> None:
    kl = {}
    for mode in ("eval", "train"):
        model = build("PPO")
        tuner: Any = Tuner(model, Method(name="mine", bn_mode=mode))
        values: list[float] = []
        tuner.first_minibatch_kl = recorded(tuner.first_minibatch_kl, values)
        model.learn(64)
        kl[mode] = values[0]
    assert abs(kl["eval"]) < 1e-6
    assert kl["train"] > 1e-4


def test_methods_that_cannot_be_applied_are_refused() -> None:
    frozen = Group(frozen_until=0.5)
    with pytest.raises(MethodError, match="let one learn from the start"):
        Tuner(build("PPO"), alike(frozen))
    with pytest.raises(MethodError, match="let one learn from the start"):
        Tuner(build("SAC"), Method(name="mine", critic_encoder=frozen, critic_head=frozen))
    with pytest.raises(MethodError, match="single sample"):
        Tuner(build("PPO", n_steps=65), Method(name="mine", bn_mode="train"))


def test_trpo_refuses_what_it_cannot_do() -> None:
    for method in (
        Method(name="mine", actor_encoder=Group(scale=0.1)),
        Method(name="mine", critic_encoder=Group(frozen_until=0.5)),
    ):
        with pytest.raises(MethodError, match="line search"):
            Tuner(build("TRPO"), method)
    with pytest.raises(MethodError, match="l2_sp"):
        Tuner(build("TRPO"), Method(name="mine", l2_sp=0.1))


def test_unknown_policies_are_refused() -> None:
    model = build("PPO")
    model.policy = torch.nn.Linear(1, 1)  # type: ignore[assignment]
    with pytest.raises(AgentError, match="ActorCriticPolicy"):
        Anatomy(model.policy)


def test_l2_sp_stays_close_to_the_converted_weights() -> None:
    """Conversion rewrites scale and shift; pulled back to the old ones, the function would not be the source's."""
    model = build("PPO", learning_rate=1e-2)
    tuner = Tuner(model, Method(name="mine", conversion="once", bn_mode="eval", l2_sp=1e3))
    tuner.convert(*data(model))
    converted = state(model)
    model.learn(256)
    for name, value in state(model).items():
        torch.testing.assert_close(value, converted[name], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("algorithm", ["SAC", "CrossQ"])
def test_scratch_forgets_the_entropy_coefficient(algorithm: str) -> None:
    model: Any = build(algorithm, ent_coef="auto_0.1")
    model.learn(64)
    assert float(model.log_ent_coef.exp()) != pytest.approx(0.1, rel=1e-4)
    kept = float(model.log_ent_coef)
    Tuner(model, Method(name="mine")).detach()
    assert float(model.log_ent_coef) == kept
    Tuner(model, alike(Group(init="random")))
    assert float(model.log_ent_coef.exp()) == pytest.approx(0.1)
    assert not model.ent_coef_optimizer.state


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.NAdam, torch.optim.RMSprop])
def test_optimizers_of_other_classes(optimizer: type[torch.optim.Optimizer], tmp_path: Path) -> None:
    kwargs = {"net_arch": [16], "optimizer_class": optimizer, "optimizer_kwargs": {"weight_decay": 0.01}}
    model = PPO("MlpPolicy", PointMass(), policy_kwargs=kwargs, n_steps=64, batch_size=32, device="cpu").learn(64)
    insert_batchnorm(model, Anatomy(model.policy).batches(*data(model)))
    tuner = Tuner(model, Method(name="mine"))
    groups = model.policy.optimizer.param_groups
    assert [(type(model.policy.optimizer), group["weight_decay"]) for group in groups] == [(optimizer, 0.01)] * 4
    model.learn(64)
    tuner.detach()
    model.save(tmp_path / "agent.zip")
    assert PPO.load(tmp_path / "agent.zip").policy.optimizer.param_groups[0]["weight_decay"] == 0.01


def test_options_of_the_users_own_groups_are_not_dropped_in_silence() -> None:
    model = build("PPO")
    parameters = list(model.policy.parameters())
    groups: list[dict[str, Any]] = [{"params": parameters[:3], "weight_decay": 0.1}, {"params": parameters[3:]}]
    model.policy.optimizer = torch.optim.Adam(groups)
    with pytest.raises(AgentError, match=r"weight_decay, \[0.1, 0\]"):
        Tuner(model, Method(name="mine"))
