"""A policy that is carried to another body computes what it did, wherever entries correspond."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl import load_agent
from daft_rl.batchnorm import batchnorm_layers
from daft_rl.correspondence import Exceptions, by_names
from daft_rl.envs.names import Names
from daft_rl.errors import AgentError
from daft_rl.transfer import transfer
from tests.conftest import ALGORITHMS, DISCRETE, build, outputs, parse

SOURCE = Names(("a", "b", "c"), ("u", "v"))
CHOICES = Names(("a", "b", "c"), ("left", "stay", "right"))
MEAN = 0.7
"""Of the entry ``b``, in every BatchNorm layer that reads it."""


class Sized(gym.Env):
    """Any number of observations and actions; nothing happens."""

    def __init__(self, observations: int, actions: int, discrete: bool = False) -> None:
        self.observation_space: Any = spaces.Box(-np.inf, np.inf, (observations,))
        self.action_space: Any = spaces.Discrete(actions) if discrete else spaces.Box(-2.0, 2.0, (actions,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def save(model: BaseAlgorithm, folder: Path) -> Path:
    """Save an agent for the entries of ``SOURCE``; all of its networks saw the same mean of ``b``."""
    for layer in batchnorm_layers(model.policy).values():
        if len(layer.mean) in (3, 5):  # observation, or observation and action
            layer.mean[1] = MEAN
    model.save(folder / "agent.zip")
    return folder / "agent.zip"


def carry(archive: Path, target: Names, source: Names = SOURCE, like: dict[str, str] | None = None) -> Any:
    """Load an agent for the entries of ``target``."""
    discrete = source is CHOICES
    env = Sized(len(target.observation), len(target.action), discrete)
    return load_agent(archive, env=env, correspondence=by_names(source, target, Exceptions(like=like or {})))


def random_rows(names: tuple[str, ...]) -> tuple[dict[str, NDArray[Any]], torch.Tensor]:
    """Random values by name, and as rows."""
    generator = np.random.default_rng(0)
    values = {
        name: generator.uniform(-1, 1, 20).astype(np.float32) for name in sorted({*names, "a", "b", "c", "u", "v"})
    }
    return values, torch.tensor(np.stack([values[name] for name in names], axis=1))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name not in DISCRETE])
def test_every_network_computes_what_it_did_on_entries_that_correspond(name: str, shared: bool, tmp_path: Path) -> None:
    archive = save(build(name, shared=shared), tmp_path)
    target = Names(("x", "c", "a"), ("w", "v", "u"))
    old, new = load_agent(archive, env=Sized(3, 2)), carry(archive, target)
    values, after = random_rows(target.observation)
    before = torch.tensor(np.stack([values["a"], np.full(20, MEAN, np.float32), values["c"]], axis=1))
    acted = [
        torch.tensor(np.stack([values[name] for name in names], axis=1)) for names in (("u", "v"), ("v", "v", "u"))
    ]
    acted[1][:, 0] = 5.0  # the critic does not know the new motor
    expected, got = outputs(old, before, acted[0]), outputs(new, after, acted[1])
    assert len(expected) == len(got) > 1
    for one, other in zip(expected, got, strict=True):
        if one.shape == (20, 2):  # actions
            assert torch.equal(other[:, 0], torch.zeros(20))
            other = other[:, [2, 1]]
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
    new.learn(64)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_permutation_of_entries_is_exactly_undone(name: str, tmp_path: Path) -> None:
    archive, source = save(build(name), tmp_path), CHOICES if name in DISCRETE else SOURCE
    moved = Names(tuple(reversed(source.observation)), (source.action[-1], *source.action[:-1]))
    there = carry(archive, moved, source)
    there.save(tmp_path / "moved.zip")
    env = Sized(3, len(source.action), name in DISCRETE)
    back = load_agent(tmp_path / "moved.zip", env=env, correspondence=by_names(moved, source))
    expected = load_agent(archive, env=env)
    assert any(
        not torch.equal(there.policy.state_dict()[key], tensor) for key, tensor in expected.policy.state_dict().items()
    )
    for key, tensor in expected.policy.state_dict().items():
        assert torch.equal(back.policy.state_dict()[key], tensor), key


@pytest.mark.parametrize("name", ["PPO", "CrossQ", "TD3"])
def test_what_an_optimizer_keeps_goes_where_the_weights_go(name: str, tmp_path: Path) -> None:
    model = build(name)
    model.learn(128)
    archive, moved = save(model, tmp_path), Names(("c", "x", "b", "a"), ("v", "w", "u"))
    carry(archive, moved).save(tmp_path / "moved.zip")
    back: Any = load_agent(tmp_path / "moved.zip", env=Sized(3, 2), correspondence=by_names(moved, SOURCE))
    kept: Any = load_agent(archive, env=Sized(3, 2))
    owner = "policy" if name == "PPO" else "critic"
    states = [getattr(one, owner).optimizer.state_dict()["state"] for one in (kept, back)]
    assert states[0].keys() == states[1].keys() != set()
    for index, entries in states[0].items():
        for key, value in entries.items():
            assert torch.equal(torch.as_tensor(states[1][index][key]), torch.as_tensor(value))


def test_what_an_optimizer_keeps_of_a_copy_is_that_of_its_sibling(tmp_path: Path) -> None:
    model: Any = build("PPO").learn(128)
    archive = save(model, tmp_path)
    old: Any = load_agent(archive)
    new = carry(archive, Names(("c2", "a", "b", "c"), SOURCE.action), like={"c2": "c"})
    states = [one.policy.optimizer.state_dict()["state"].values() for one in (old, new)]
    pairs = [pair for pair in zip(*states, strict=True) if pair[0]["exp_avg"].shape[1:] == (3,)]
    assert pairs
    for before, after in pairs:
        assert torch.equal(after["exp_avg"], before["exp_avg"][:, [2, 0, 1, 2]])
        assert torch.equal(after["exp_avg_sq"], before["exp_avg_sq"][:, [2, 0, 1, 2]])


@pytest.mark.parametrize("name", sorted(DISCRETE))
def test_choices_are_matched_by_name_and_a_new_one_is_not_the_best(name: str, tmp_path: Path) -> None:
    archive = save(build(name), tmp_path)
    target = Names(CHOICES.observation, ("jump", "right", "left", "stay"))
    old, new = load_agent(archive), carry(archive, target, CHOICES)
    network = "q_net" if name == "DQN" else "quantile_net"
    observations = torch.randn(20, 3)
    before, after = (getattr(model.policy, network)(observations) for model in (old, new))
    torch.testing.assert_close(after[..., [2, 3, 1]], before)
    torch.testing.assert_close(after[..., 0], before.mean(dim=-1))
    new.learn(64)


@pytest.mark.parametrize("name", ["PPO", "SAC", "CrossQ"])
def test_a_copy_acts_as_its_sibling_and_shares_what_it_is_seen_with(name: str, tmp_path: Path) -> None:
    archive = save(build(name), tmp_path)
    old = load_agent(archive)
    target = Names(("a", "b", "c", "c2"), ("u", "v", "v2"))
    new = carry(archive, target, like={"c2": "c", "v2": "v"})
    values, before = random_rows(SOURCE.observation)
    after = torch.cat([before, before[:, 2:]], dim=1)
    acted = torch.tensor(np.stack([values["u"], values["v"]], axis=1))
    expected = outputs(old, before, acted)
    for one, other in zip(expected, outputs(new, after, torch.cat([acted, acted[:, 1:]], dim=1)), strict=True):
        if one.shape == (20, 2):  # actions
            assert torch.equal(other[:, 1], other[:, 2])
        torch.testing.assert_close(other[:, : one.shape[1]], one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_noise_that_depends_on_the_state_is_carried(name: str, tmp_path: Path) -> None:
    model = ALGORITHMS[name](
        "MlpPolicy", Sized(3, 2), use_sde=True, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu"
    )
    model.save(tmp_path / "agent.zip")
    with pytest.warns(UserWarning, match="taken to be 0"):
        new = carry(tmp_path / "agent.zip", Names(("a", "c"), ("w", "v", "u")))
    actor = new.policy if name == "PPO" else new.actor
    before = (model.policy if name == "PPO" else model.actor).log_std  # type: ignore[attr-defined]
    assert torch.equal(actor.log_std[:, [2, 1]], before)
    torch.testing.assert_close(actor.log_std[:, 0], before.mean(dim=1))
    one = carry(tmp_path / "agent.zip", Names(SOURCE.observation, ("v",)))
    actor = one.policy if name == "PPO" else one.actor
    assert torch.equal(actor.log_std, before[:, 1:])


@pytest.mark.parametrize("kind", [NormalActionNoise, OrnsteinUhlenbeckActionNoise])
def test_noise_of_actions_is_carried_with_them(kind: Any, tmp_path: Path) -> None:
    archive = save(build("TD3", action_noise=kind(np.zeros(2), np.array([0.1, 0.3]))), tmp_path)
    new = carry(archive, Names(SOURCE.observation, ("w", "v", "u")))
    assert repr(new.action_noise) == repr(kind(np.zeros(3), np.array([0.2, 0.3, 0.1])))
    new.learn(64)
    again = load_agent(archive, env=Sized(3, 3), correspondence="positions", action_noise=None)
    assert again.action_noise is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("cls", [PPO, SAC])
def test_dictionaries_are_carried_by_key_with_their_statistics(cls: Any, tmp_path: Path) -> None:
    def make(arm: int, goal: int) -> Sized:
        env = Sized(1, 2)
        box: dict[str, spaces.Space[Any]] = {
            name: spaces.Box(-1.0, 1.0, (size,)) for name, size in {"arm": arm, "goal": goal}.items()
        }
        env.observation_space = spaces.Dict(box)
        return env

    venv = VecNormalize(DummyVecEnv([lambda: make(2, 1)]))
    short = {"n_steps": 16, "batch_size": 16} if cls is PPO else {"learning_starts": 4}
    model = cls("MultiInputPolicy", venv, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **short).learn(16)
    model.save(tmp_path / "agent.zip")
    venv.save(str(tmp_path / "vecnormalize.pkl"))
    source = Names(("arm.x", "arm.y", "goal.x"), ("u", "v"))
    target = Names(("arm.y", "arm.z", "arm.x", "goal.x"), ("v", "u"))
    new = load_agent(tmp_path / "agent.zip", env=make(3, 1), correspondence=by_names(source, target))
    normalizer: Any = new.get_vec_normalize_env()
    old: Any = venv.obs_rms
    np.testing.assert_array_equal(normalizer.obs_rms["arm"].mean, [old["arm"].mean[1], 0.0, old["arm"].mean[0]])
    arm, goal = np.random.default_rng(0).uniform(-1, 1, (20, 3)), np.zeros((20, 1))
    before = model.predict({"arm": arm[:, [2, 0]], "goal": goal}, deterministic=True)[0]
    after = new.predict({"arm": arm, "goal": goal}, deterministic=True)[0]
    np.testing.assert_allclose(after[:, ::-1], before, rtol=1e-4, atol=1e-5)
    bare = by_names(Names(("x", "y", "z"), ("u", "v")), Names(("y", "w", "x", "z"), ("v", "u")))
    with pytest.raises(AgentError, match=r"none of the source's names begins with 'arm.': x, y, z. Name"):
        load_agent(tmp_path / "agent.zip", env=make(3, 1), correspondence=bare)


def test_a_layer_that_mixes_all_entries_is_refused(tmp_path: Path) -> None:
    class WithLayerNorm(FlattenExtractor):
        def __init__(self, space: spaces.Space[Any]) -> None:
            super().__init__(space)
            self.norm = torch.nn.LayerNorm(self.features_dim)

        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            return self.norm(super().forward(observations))

    kwargs = {"features_extractor_class": WithLayerNorm, "net_arch": [8]}
    model = PPO("MlpPolicy", Sized(3, 2), policy_kwargs=kwargs, seed=0, device="cpu")
    with torch.no_grad():
        norm: Any = model.policy.features_extractor.norm
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
    model.save(tmp_path / "agent.zip")
    moved = Names(("c", "b", "a"), SOURCE.action)
    with pytest.raises(AgentError, match="Only linear and BatchNorm layers may read"):
        load_agent(
            tmp_path / "agent.zip", env=Sized(3, 2), policy_kwargs=kwargs, correspondence=by_names(SOURCE, moved)
        )


@pytest.mark.parametrize("name", ["SAC", "TQC", "CrossQ"])
def test_an_automatic_target_of_the_entropy_follows_the_actions(name: str, tmp_path: Path) -> None:
    for given, expected in (("auto", -5.0), (-1.5, -1.5)):
        build(name, target_entropy=given).save(tmp_path / "agent.zip")
        new: Any = load_agent(tmp_path / "agent.zip", env=Sized(3, 5), correspondence="positions")
        assert new.target_entropy == expected
    own: Any = load_agent(tmp_path / "agent.zip", env=Sized(3, 5), correspondence="positions", target_entropy=-2.0)
    assert own.target_entropy == -2.0


def test_positions_take_new_entries_to_be_the_last(tmp_path: Path) -> None:
    archive = save(build("SAC"), tmp_path)
    old, new = (carry(archive, Names(tuple("abc"[:size]), tuple("uvw"[:other]))) for size, other in ((3, 2), (2, 3)))
    by_position = load_agent(archive, env=Sized(2, 3), correspondence="positions")
    for key, tensor in new.policy.state_dict().items():
        assert torch.equal(by_position.policy.state_dict()[key], tensor)
    assert old.policy.state_dict()["actor.mu.weight"].shape != new.policy.state_dict()["actor.mu.weight"].shape


def test_other_sizes_and_other_bounds_are_refused(tmp_path: Path) -> None:
    archive = save(build("PPO"), tmp_path)
    with pytest.raises(AgentError, match=r"shape \(3,\).*shape \(5,\).*correspondence"):
        load_agent(archive, env=Sized(5, 2))
    with pytest.raises(AgentError, match=r"3 and 4 entries of the observation.*the environment 5"):
        load_agent(archive, env=Sized(5, 2), correspondence=by_names(SOURCE, Names((*"abcd",), ("u", "v"))))
    env = Sized(3, 2)
    env.action_space = spaces.Box(np.array([-2, -1], np.float32), np.array([2, 1], np.float32))
    with pytest.raises(AgentError, match="other bounds: u"):
        load_agent(archive, env=env, correspondence=by_names(SOURCE, Names((*"abc",), ("v", "u"))))
    env.observation_space = spaces.Dict({"a": env.observation_space})
    with pytest.raises(AgentError, match="vectors"):
        load_agent(archive, env=env, correspondence="positions")


def test_statistics_beside_the_agent_are_carried(tmp_path: Path) -> None:
    venv: Any = VecNormalize(DummyVecEnv([lambda: Sized(3, 2)]))
    model = PPO("MlpPolicy", venv, n_steps=64, seed=0, device="cpu").learn(64)
    model.save(tmp_path / "agent.zip")
    venv.save(str(tmp_path / "vecnormalize.pkl"))
    new = carry(tmp_path / "agent.zip", Names(("c", "x", "a"), SOURCE.action))
    normalizer: Any = new.get_vec_normalize_env()
    np.testing.assert_array_equal(normalizer.obs_rms.mean, [venv.obs_rms.mean[2], 0.0, venv.obs_rms.mean[0]])
    np.testing.assert_array_equal(normalizer.obs_rms.var, [venv.obs_rms.var[2], 1.0, venv.obs_rms.var[0]])
    rows = np.random.default_rng(0).normal(size=(20, 3))
    before = np.stack([rows[:, 2], np.full(20, venv.obs_rms.mean[1]), rows[:, 0]], axis=1)
    expected = model.predict(venv.normalize_obs(before), deterministic=True)[0]
    np.testing.assert_allclose(
        new.predict(normalizer.normalize_obs(rows), deterministic=True)[0], expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_transfer_plays_on_the_source_as_if_it_had_the_other_body(tmp_path: Path) -> None:
    class Named(Sized):
        observation_names, action_names = SOURCE.observation, SOURCE.action

    class Other(Sized):
        observation_names, action_names = ("x", "c", "b", "a"), ("v", "w", "u")

    archive = save(build("PPO"), tmp_path)
    result = transfer(
        lambda: TimeLimit(Other(4, 3), 10),
        "daft",
        source=archive,
        source_env=lambda: TimeLimit(Named(3, 2), 10),
        total_timesteps=64,
        output_dir=tmp_path / "run",
        settings=parse(
            [
                *("num_envs=2", "evaluation.episodes=2", "evaluation.episodes_during=1", "calibration.steps=64"),
                *("calibration.held_out=32", "progress_bar=false", "algo.settings.n_steps=32"),
            ]
        ),
    )
    assert set(result.zero_shot) == set(result.final) == {"target", "source"}
