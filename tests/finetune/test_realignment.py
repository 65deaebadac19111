"""Inputs with an offset are brought back, where that pays; nothing else of a policy changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import CrossQ
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor

from daft_rl import load_agent
from daft_rl.archives import find_agent
from daft_rl.batchnorm import batchnorm_layers
from daft_rl.blend import blend
from daft_rl.envs import make_vec
from daft_rl.errors import MethodError
from daft_rl.finetune.realignment import _TrialRecorder, at_home, realign
from daft_rl.method import GROUPS
from daft_rl.policy.networks import Networks
from daft_rl.run.results import TransferResult
from daft_rl.transfer import transfer
from tests.conftest import ALGORITHMS, DISCRETE, PointMass, build, parse

OFFSET = {"observation_offset": 0.05, "observation_draw": 2}


def state(model: Any) -> dict[str, Tensor]:
    named = [*model.policy.named_parameters(), *model.policy.named_buffers()]  # shared extractors once
    return {name: tensor.detach().clone() for name, tensor in named}


def differing(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def test_an_offset_of_the_ants_sensors_is_taken_back() -> None:
    venv = make_vec("Ant", num_envs=8, shift=OFFSET)
    model = load_agent(find_agent("Ant", "ppo"), venv, device="cpu")
    torch.manual_seed(0)
    before = state(model)
    found = realign(model, venv, 2048, 1, 1.5)
    assert found.inputs == 105
    assert 20 < found.moved < 60
    assert found.before < -1 < 1 < found.after
    after = state(model)
    changed = differing(before, after)
    assert {name.partition("_extractor.")[2] for name in changed} == {"net.1.running_mean"}
    again = load_agent(find_agent("Ant", "ppo"), venv, device="cpu")
    torch.manual_seed(0)
    assert realign(again, venv, 2048, 1, 1.5) == found
    assert not differing(after, state(again))
    assert (
        before["features_extractor.net.1.running_mean"] != after["features_extractor.net.1.running_mean"]
    ).sum() == found.moved
    venv.close()


def test_what_does_not_pay_is_undone() -> None:
    """The Cheetah's policy bears this offset of all inputs; half a correction is worse."""
    venv = make_vec("HalfCheetah", num_envs=8, shift={"observation_offset": 0.1})
    model = load_agent(find_agent("HalfCheetah", "ppo"), venv, device="cpu")
    before = state(model)
    found = realign(model, venv, 4096, 1, 1.0)
    assert found.moved == 0
    assert found.after >= found.before
    assert not differing(before, state(model))
    venv.close()


class Paid(PointMass):
    """Pays for every observation alike, more from episode to episode: whatever comes later is better."""

    paid = 0

    def reset(self, **kwargs: Any) -> Any:
        Paid.paid += 1
        return super().reset(**kwargs)

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        observation, _, *rest = super().step(action)
        return observation, float(Paid.paid), *rest  # type: ignore[return-value]


@pytest.mark.parametrize("beyond", [0.0, 1e9])
def test_means_of_a_wrapper(beyond: float) -> None:
    """What ``VecNormalize`` normalizes is where the range is known; its own clipping does not shorten the way there."""
    raw = DummyVecEnv([Paid] * 2)
    venv: Any = VecNormalize(raw, clip_obs=0.01)
    model = PPO("MlpPolicy", venv, n_steps=8, batch_size=8, device="cpu")
    venv.obs_rms.mean, venv.obs_rms.var = np.full(3, 100.0), np.full(3, 4.0)
    before = state(model)
    found = realign(model, raw, 160, 0, beyond)
    assert not differing(before, state(model))
    assert (venv.obs_rms.var == 4.0).all()
    mean = venv.obs_rms.mean
    if beyond == 0.0:
        assert found.moved == 3
        assert (np.abs(mean) < 10).all()  # where observations are
    else:
        assert found.moved == 0
        assert (mean == 100.0).all()


@pytest.mark.parametrize("beyond", [0.0, 1.0, 1e9])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_only_means_of_far_inputs_change(algorithm: str, beyond: float) -> None:
    model = build(algorithm)
    venv = DummyVecEnv([lambda: Paid(discrete=algorithm in DISCRETE)] * 2)
    before, networks = state(model), Networks(model.policy)
    layers = batchnorm_layers(model.policy)
    reading = [name for name in networks.first_layers(3) if name in layers]
    assert reading
    found = realign(model, venv, 160, 0, beyond)
    assert (found.moved > 0) == (beyond < 1e9)
    for name in differing(before, state(model)):
        layer, _, what = name.rpartition(".")
        assert layer in reading
        assert what in ("running_mean", "ra_mean")
        distance = (layers[layer].mean - before[name]).abs() / (layers[layer].var + layers[layer].eps).sqrt()
        assert bool(((distance == 0) | (distance > beyond)).all())
    for target, online in networks.layout.targets.items():
        for name in reading:
            if name.startswith(target + "."):
                assert torch.equal(layers[name].mean, layers[online + name[len(target) :]].mean)


@pytest.mark.parametrize("beyond", [0.0, 1e9])
def test_target_networks_keep_what_is_theirs(beyond: float) -> None:
    """Between two of its updates a target network of DQN has statistics of its own."""
    model = build("DQN")
    networks, layers = Networks(model.policy), batchnorm_layers(model.policy)
    read = {name: online for name, online in networks.first_layers(3).items() if name in layers}
    twins = {name: online for name, online in read.items() if name != online}
    assert twins
    for name in twins:
        layers[name].mean.add_(5.0)
        layers[name].var.mul_(2.0)
    before = state(model)
    found = realign(model, DummyVecEnv([lambda: Paid(discrete=True)] * 2), 160, 0, beyond)
    assert (found.moved > 0) == (beyond == 0.0)
    changed = differing(before, state(model))
    assert all(name.endswith("running_mean") for name in changed)
    assert {name.removesuffix(".running_mean") for name in changed} == (set(read) if beyond == 0.0 else set())
    for name, online in twins.items() if beyond == 0.0 else ():
        assert torch.equal(layers[name].mean, layers[online].mean)


class EndsEarly(PointMass):
    """Three points a step, for two steps."""

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        observation, _, _, truncated, info = super().step(action)
        return observation, 3.0, self.steps >= 2, truncated, info


def test_an_episode_that_is_over_gets_nothing_further() -> None:
    """By the reward of a step, ending at once would be the best of all."""
    watch = _TrialRecorder(DummyVecEnv([EndsEarly, PointMass]))
    watch.reset()
    paid = np.zeros(2)
    for _ in range(6):
        paid += watch.step(np.zeros((2, 2), dtype=np.float32))[1]
    assert paid[0] == 18.0
    assert watch.returns[0] == 6.0
    assert watch.returns[1] == pytest.approx(paid[1])
    assert watch.steps == 6


def test_a_critic_keeps_the_means_of_its_actions() -> None:
    model = CrossQ("MlpPolicy", PointMass(), policy_kwargs={"net_arch": [16]}, device="cpu")
    before = state(model)
    realign(model, DummyVecEnv([Paid] * 2), 160, 0, 0.0)
    changed = differing(before, after := state(model))
    assert {name for name in changed if name.startswith("critic.")}
    for name in (name for name in changed if name.startswith("critic.")):
        assert before[name].shape == (5,)  # three entries of an observation, two of an action
        assert torch.equal(before[name][3:], after[name][3:])


def policy_on(model: Any, observations: NDArray[Any]) -> NDArray[Any]:
    """Actions, of which the last bits depend on the order of sums."""
    normalizer = model.get_vec_normalize_env()
    seen = observations if normalizer is None else normalizer.normalize_obs(observations)
    return np.asarray(model.predict(seen.astype(np.float32), deterministic=True)[0])


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "VecNormalize"])
def test_at_home_the_policy_acts_as_on_observations_with_the_offset(algorithm: str) -> None:
    """Also after conversion, which moves the means once more; and outside of the block nothing has changed."""
    if algorithm == "VecNormalize":
        venv: Any = VecNormalize(DummyVecEnv([Paid]))
        venv.obs_rms.mean, venv.obs_rms.var = np.full(3, 2.0), np.full(3, 4.0)
        model: Any = PPO("MlpPolicy", venv, n_steps=8, batch_size=8, device="cpu", seed=0)
    else:
        model = build(algorithm)
    discrete = isinstance(model.action_space, spaces.Discrete)
    found = realign(model, DummyVecEnv([lambda: Paid(discrete=discrete)] * 2), 160, 0, 0.0)
    networks, seen = Networks(model.policy), np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    networks.apply(networks.measure(networks.batches(seen, None)), True)
    before, offset = state(model), np.array(found.offset["observation"])
    assert (offset != 0).all()
    with_offset = policy_on(model, seen + offset)
    with at_home(model, found):
        np.testing.assert_allclose(policy_on(model, seen), with_offset, atol=1e-5)
    assert not differing(before, state(model))
    if not discrete:
        assert not np.allclose(policy_on(model, seen), with_offset, atol=1e-3)


@pytest.fixture(scope="module")
def realigned_run(tmp_path_factory: pytest.TempPathFactory) -> TransferResult:
    """A transfer that realigns, and learns next to nothing."""
    method = {"name": "mine", "realign": 1.5, **{name: {"scale": 1e-9} for name in GROUPS}}
    tiny = ["num_envs=4", "calibration={steps: 2048, held_out: 64}", "evaluation.episodes=1"]
    tiny += ["evaluation.episodes_during=1", "progress_bar=false", "total_timesteps=64", "evaluation.every=64"]
    tiny += ["algo.settings.n_steps=16", "algo.settings.batch_size=64"]
    folder = tmp_path_factory.mktemp("realigned")
    return transfer("Ant-shifted", method, shift=OFFSET, output_dir=folder, settings=parse(tiny))


def test_a_transfer_begins_with_it(realigned_run: TransferResult) -> None:
    assert realigned_run.realigned is not None
    assert realigned_run.realigned["moved"] > 0
    assert realigned_run.final["target"].mean > 0 > realigned_run.zero_shot["target"].mean
    results = json.loads((realigned_run.folder / "results.json").read_text())
    assert results["realigned"] == realigned_run.realigned


def test_the_source_is_kept(realigned_run: TransferResult) -> None:
    """With the target's means the policy falls on the source; in the source it is the source, and so is its archive."""
    known = batchnorm_layers(load_agent(find_agent("Ant", "ppo"), device="cpu").policy)["features_extractor.net.1"]
    seen = (known.mean + known.var.sqrt() * torch.randn(64, 105, generator=torch.Generator().manual_seed(0))).numpy()
    source, final, at_home = (
        policy_on(load_agent(path, device="cpu"), seen)
        for path in (
            find_agent("Ant", "ppo"),
            realigned_run.folder / "final.zip",
            realigned_run.folder / "final_at_home.zip",
        )
    )
    np.testing.assert_allclose(at_home, source, atol=1e-4)
    assert np.abs(final - source).mean() > 0.1
    assert realigned_run.curve[-1]["source"] > 1000
    assert realigned_run.final["source"].mean > 1000
    again = blend(realigned_run.folder, alphas=[1.0]).returns[1.0]["source"]
    assert again.mean == pytest.approx(realigned_run.final["source"].mean, rel=1e-3)


def observed(change: Any, space: spaces.Space[Any]) -> Any:
    return lambda: gym.wrappers.TransformObservation(PointMass(), change, space)


@pytest.mark.parametrize(
    "env",
    [
        PointMass,
        observed(lambda o: {"all": o}, spaces.Dict(all=spaces.Box(-9, 9, (3,)))),
        observed(lambda o: (o > 0).astype(int), spaces.MultiDiscrete([2, 2, 2])),
    ],
)
def test_where_nothing_normalizes_the_observation_it_is_refused(env: Any) -> None:
    venv = DummyVecEnv([env])
    policy = "MultiInputPolicy" if isinstance(venv.observation_space, spaces.Dict) else "MlpPolicy"
    model = PPO(policy, venv, n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(MethodError, match="nothing normalizes"):
        realign(model, venv, 8, 0, 1.5)


def test_a_transfer_refuses_it_before_anything_is_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[Any] = []
    monkeypatch.setattr(PointMass, "step", lambda *args: played.append(args))
    model = PPO("MlpPolicy", PointMass(), device="cpu")
    with pytest.raises(MethodError, match="nothing normalizes"):
        transfer(PointMass, "daft_realign", source=model, output_dir=tmp_path / "run")
    assert not played
