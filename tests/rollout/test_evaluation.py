"""Episodes are played whole and counted once; visiting and evaluating leave the agent alone."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl.envs import make_vec
from daft_rl.errors import DaftWarning, TaskError
from daft_rl.rollout import episodes
from daft_rl.rollout.evaluation import evaluate, evaluate_all, visit
from tests.conftest import ALGORITHMS, DISCRETE, ON_POLICY, PointMass, build


class CountDown(gym.Wrapper):
    """Environment ``k`` has episodes of ``10 * (k + 1)`` steps that pay 1 each."""

    def __init__(self, length: int) -> None:
        super().__init__(PointMass())
        self.length = length
        self.steps = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, *_ = self.env.step(action)
        self.steps += 1
        return observation, 1.0, self.steps >= self.length, False, {}


def test_short_episodes_are_not_counted_more_often() -> None:
    venv = DummyVecEnv([partial(CountDown, 10 * (k + 1)) for k in range(3)])
    result = evaluate(build("PPO"), venv, episodes=6, seed=0)
    assert result.returns == [10, 20, 30, 10, 20, 30]
    assert result.lengths == [10, 20, 30, 10, 20, 30]
    assert result.mean == 20
    assert result.as_dict()["std"] == pytest.approx(np.std(result.returns))
    assert evaluate(build("PPO"), venv, episodes=4, seed=0).returns == [10, 20, 30, 10]


def test_the_same_episodes_however_many_environments_play() -> None:
    model = build("PPO")
    played = [evaluate(model, DummyVecEnv([PointMass] * n), episodes=7, seed=3).returns for n in (1, 3, 7, 10)]
    assert len(set(played[0])) == 7
    for other in played[1:]:
        np.testing.assert_allclose(other, played[0], rtol=1e-4)


class AsDictionary(gym.ObservationWrapper):
    """Observations as a dictionary."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Dict({"point": env.observation_space})

    def observation(self, observation: Any) -> dict[str, Any]:
        return {"point": observation}


@pytest.mark.parametrize(("policy", "wrap"), [("MlpPolicy", gym.Wrapper), ("MultiInputPolicy", AsDictionary)])
def test_batches_side_by_side_play_as_alone(policy: str, wrap: type[gym.Wrapper]) -> None:
    def batch(length: int, size: int) -> DummyVecEnv:
        return DummyVecEnv([lambda: wrap(gym.wrappers.TimeLimit(PointMass(), length))] * size)

    venvs = {"short": batch(10, 4), "long": batch(15, 5)}
    model = PPO(policy, batch(10, 1), n_steps=8, batch_size=8, seed=0, device="cpu")
    together = evaluate_all(model, venvs, episodes=7, seed=3)
    assert {name: result.lengths for name, result in together.items()} == {"short": [10] * 7, "long": [15] * 7}
    for name, venv in venvs.items():
        np.testing.assert_allclose(evaluate(model, venv, 7, seed=3).returns, together[name].returns, rtol=1e-4)


def test_a_batch_of_threads_rests_where_an_episode_is_over() -> None:
    """Ants that act at random fall at different times."""
    model = PPO("MlpPolicy", make_vec("Ant", num_envs=1, vec="dummy"), n_steps=8, batch_size=8, seed=0, device="cpu")
    policy: Any = model.policy
    policy.action_net.weight.data *= 100.0
    played = []
    for vec in ("dummy", "threads"):
        venv = make_vec("Ant", num_envs=4, vec=vec)
        played.append(evaluate(model, venv, episodes=6, seed=0))
        for _ in range(20):  # afterwards nobody rests
            moved: Any = venv.step(np.ones((4, 8), dtype=np.float32))[0]
        assert len(np.unique(moved, axis=0)) == 4
        assert not any(env.unwrapped.data.time == 0.0 for env in venv.envs)  # type: ignore[attr-defined]
        venv.close()
    assert played[0] == played[1]
    assert len(set(played[0].lengths)) > 1


def test_an_episode_without_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes, "LONGEST", 50)
    with pytest.raises(TaskError, match="TimeLimit"):
        evaluate(build("PPO"), DummyVecEnv([lambda: CountDown(51)]), episodes=1, seed=0)


@pytest.mark.parametrize("limited", [False, True])
def test_a_long_episode_that_nothing_limits_is_told_once(limited: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes, "LONG", 50)
    venv = DummyVecEnv([lambda: TimeLimit(CountDown(60), 60) if limited else CountDown(60)])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        evaluate(build("PPO"), venv, episodes=2, seed=0)
    found = [str(one.message) for one in told if issubclass(one.category, DaftWarning)]
    assert len(found) == (0 if limited else 1)
    assert all("gone on for 50 steps" in message and "max_episode_steps" in message for message in found)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_agent_is_left_alone(algorithm: str) -> None:
    model = build(algorithm)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    generator = torch.get_rng_state()
    venv = DummyVecEnv([lambda: PointMass(discrete=algorithm in DISCRETE)])
    first = evaluate(model, venv, episodes=2, seed=5)
    assert torch.equal(generator, torch.get_rng_state())
    observations, actions = visit(model, venv, steps=30, seed=1)
    assert len(observations) == len(actions) == 30
    if algorithm not in (*DISCRETE, *ON_POLICY):
        assert np.abs(actions).max() <= 1.0, "scaled as in a replay buffer"
    assert all(torch.equal(value, before[name]) for name, value in model.policy.state_dict().items())
    assert first == evaluate(model, venv, episodes=2, seed=5)


@pytest.mark.parametrize("algorithm", ["TD3", "DDPG"])
def test_visits_explore_with_the_noise_of_training(algorithm: str) -> None:
    model = build(algorithm)
    model.action_noise = NormalActionNoise(np.zeros(2), np.full(2, 0.1))  # type: ignore[attr-defined]
    observations, actions = visit(model, DummyVecEnv([PointMass] * 4), steps=2000, seed=0)
    chosen = model.policy.scale_action(model.predict(observations, deterministic=True)[0])
    inside = np.abs(chosen) < 0.7
    assert np.std((actions - chosen)[inside]) == pytest.approx(0.1, rel=0.2)
    assert np.abs(actions).max() <= 1.0


def test_normalization_of_the_agent_is_used_and_not_moved() -> None:
    model = build("PPO")
    normalizer: Any = VecNormalize(DummyVecEnv([PointMass]), norm_reward=True)
    normalizer.obs_rms.mean[:] = 3.0
    normalizer.obs_rms.var[:] = 4.0
    model.set_env(normalizer)
    model.env = normalizer
    raw = DummyVecEnv([PointMass])
    raw.seed(0)
    first: Any = raw.reset()
    observations, _ = visit(model, raw, steps=5, seed=0)
    np.testing.assert_allclose(observations[0], (first[0] - 3.0) / np.sqrt(4.0 + 1e-8), rtol=1e-5)
    count = normalizer.obs_rms.count
    evaluate(model, raw, episodes=1, seed=0)
    assert normalizer.obs_rms.count == count


@pytest.mark.parametrize("kind", [PPO, SAC])
def test_visits_of_gsde_explore_with_fresh_noise(kind: type[Any]) -> None:
    """A matrix of noise per environment, and another after as many steps as in training."""
    settings = {"n_steps": 8, "batch_size": 8} if kind is PPO else {"train_freq": 8}
    model = kind("MlpPolicy", DummyVecEnv([PointMass] * 3), use_sde=True, seed=0, device="cpu", **settings)
    matrices = []
    actor: Any = model.policy if kind is PPO else model.policy.actor
    draw = actor.reset_noise

    def record(batch_size: int) -> None:
        draw(batch_size)
        matrices.append(actor.action_dist.exploration_matrices.clone())

    actor.reset_noise = record
    visit(model, DummyVecEnv([PointMass] * 3), steps=48, seed=0)
    assert [len(matrix) for matrix in matrices] == [3, 3]
    assert not torch.equal(matrices[0], matrices[1])
    assert not torch.equal(matrices[0][0], matrices[0][1])
