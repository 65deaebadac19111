"""What SB3 learns with, a transfer learns with: spaces, noise, rhythms and normalization, each in a whole small run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

import daft_rl
from daft_rl.errors import MethodError
from daft_rl.finetune import realign
from daft_rl.transfer import transfer
from tests.conftest import ALGORITHMS, ON_POLICY, PointMass, build

IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "vector": spaces.Box(-1, 1, (3,)),
    "matrix": spaces.Box(-1, 1, (2, 3)),
    "image": IMAGE,
    "discrete": spaces.Discrete(5),
    "choices": spaces.MultiDiscrete([2, 3]),
    "flags": spaces.MultiBinary(3),
    "vectors": spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (3,))}),
    "mixed": spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "d": spaces.Discrete(3), "f": spaces.MultiBinary(2)}),
    "seen": spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "image": IMAGE}),
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-2, 2, (2,)),
    "discrete": spaces.Discrete(3),
    "choices": spaces.MultiDiscrete([2, 3]),
    "flags": spaces.MultiBinary(4),
}
PAIRS = [
    *(("PPO", "image", "flags"), ("PPO", "seen", "choices"), ("A2C", "mixed", "flags"), ("A2C", "discrete", "box")),
    *(("TRPO", "choices", "flags"), ("SAC", "mixed", "box"), ("TD3", "matrix", "box"), ("DDPG", "vectors", "box")),
    *(
        ("TQC", "vector", "box"),
        ("CrossQ", "vector", "box"),
        ("DQN", "image", "discrete"),
        ("DQN", "flags", "discrete"),
    ),
    *(("QRDQN", "mixed", "discrete"), ("PPO", "vectors", "discrete")),
]
"""Each algorithm, each kind of observation and each kind of action; not every combination."""
HALF = np.full(2, 0.5)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "OU noise": ("DDPG", {"action_noise": OrnsteinUhlenbeckActionNoise(0 * HALF, HALF)}),
    "vectorized noise": ("TD3", {"action_noise": VectorizedActionNoise(NormalActionNoise(0 * HALF, HALF), 1)}),
    "noise of SAC": ("SAC", {"action_noise": VectorizedActionNoise(OrnsteinUhlenbeckActionNoise(0 * HALF, HALF), 1)}),
    "gSDE by rollouts": ("A2C", {"use_sde": True}),
    "gSDE by steps": ("TQC", {"use_sde": True, "sde_sample_freq": 4}),
    "episodes": ("TD3", {"train_freq": (1, "episode"), "gradient_steps": -1}),
    "episodes and gSDE": ("SAC", {"train_freq": (1, "episode"), "use_sde": True}),
}


class Random(gym.Env[Any, Any]):
    """Random observations of any space. Every action pays what it adds up to."""

    def __init__(self, observations: str, actions: str) -> None:
        self.observation_space, self.action_space = OBSERVATIONS[observations], ACTIONS[actions]
        self.steps = 0

    def _observe(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(1 << 30)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.steps += 1
        return self._observe(), float(np.sum(action)), False, self.steps >= 8, {}


def make_agent(algorithm: str, env: VecEnv, **settings: Any) -> BaseAlgorithm:
    kwargs: dict[str, Any] = {"net_arch": [8]}
    image = next((name for name in ("image", "seen") if env.observation_space == OBSERVATIONS[name]), "")
    if image:
        kwargs["features_extractor_kwargs"] = {"features_dim" if image == "image" else "cnn_output_dim": 8}
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    if algorithm in ON_POLICY:
        settings = {"n_steps": 16} | ({"batch_size": 16} if algorithm != "A2C" else {}) | settings
    else:
        settings = {"learning_starts": 8, "buffer_size": 200, "batch_size": 8} | settings
    policy = "CnnPolicy" if image == "image" else policy
    return ALGORITHMS[algorithm](policy, env, policy_kwargs=kwargs, seed=0, device="cpu", **settings)  # type: ignore[no-any-return]


def transfer_of(agent: BaseAlgorithm, observations: str, actions: str, folder: Path, **further: Any) -> Any:
    """A transfer that learns a few times."""
    on_policy = type(agent).__name__ in ON_POLICY
    own = {"n_steps": 16} if on_policy else {"learning_starts": 8, "buffer_size": 200, "batch_size": 8}
    if on_policy and hasattr(agent, "batch_size"):
        own["batch_size"] = 16
    small = {
        **{"vec": "dummy", "num_envs": 2, "calibration.steps": 32, "calibration.held_out": 8, "progress_bar": False},
        **{"evaluation.episodes": 2, "evaluation.episodes_during": 1, "tensorboard.every": 32},
        **{f"algo.settings.{name}": value for name, value in own.items()},
    }
    return transfer(
        lambda: Random(observations, actions), further.pop("method", "daft"), source=agent, total_timesteps=64,
        output_dir=folder, settings=small | further,
    )  # fmt: skip


@pytest.mark.parametrize(("algorithm", "observations", "actions"), PAIRS)
def test_every_space_of_sb3_can_be_transferred(algorithm: str, observations: str, actions: str, tmp_path: Path) -> None:
    agent = make_agent(algorithm, DummyVecEnv([lambda: Random(observations, actions)]))
    result = transfer_of(agent, observations, actions, tmp_path / "run")
    assert result.timesteps >= 64
    assert np.isfinite(result.final["target"].mean)
    again = ALGORITHMS[algorithm].load(tmp_path / "run" / "final.zip", device="cpu")
    assert again.action_space == ACTIONS[actions]


@pytest.mark.parametrize("kind", KINDS)
def test_noise_and_rhythm_of_the_agent_can_be_transferred(kind: str, tmp_path: Path) -> None:
    algorithm, settings = KINDS[kind]
    agent = make_agent(algorithm, DummyVecEnv([lambda: Random("vector", "box")]), **settings)
    episodic = {"num_envs": 1, "algo.settings.train_freq": [1, "episode"]} if "train_freq" in settings else {}
    assert transfer_of(agent, "vector", "box", tmp_path / "run", **episodic).timesteps >= 64


@pytest.mark.parametrize("kind", ["vectorized noise", "gSDE by rollouts", "episodes and gSDE"])
def test_noise_and_rhythm_of_the_agent_can_be_adapted(kind: str) -> None:
    algorithm, settings = KINDS[kind]
    agent = make_agent(algorithm, DummyVecEnv([lambda: Random("vector", "box")]), **settings)
    adaptation = daft_rl.adapt(agent, calibration_steps=32, held_out_steps=8, seed=0)
    agent.learn(32, callback=adaptation)
    assert agent.num_timesteps >= 32


@pytest.mark.parametrize("actions", ["flags", "choices"])
def test_actions_of_several_parts_can_be_adapted(actions: str) -> None:
    agent = make_agent("PPO", DummyVecEnv([lambda: Random("mixed", actions)]))
    agent.learn(32, callback=daft_rl.adapt(agent, calibration_steps=32, seed=0))
    assert agent.num_timesteps == 32


@pytest.mark.parametrize(
    ("observations", "normalization", "method"),
    [
        ("image", {"norm_obs": False}, "daft"),
        ("seen", {"norm_obs_keys": ["a"]}, "daft_realign"),
        ("vectors", {}, "daft_realign"),
    ],
)
def test_every_normalization_of_sb3_can_be_transferred(
    observations: str, normalization: dict[str, Any], method: str, tmp_path: Path
) -> None:
    venv = VecNormalize(DummyVecEnv([lambda: Random(observations, "choices")]), **normalization)
    agent = make_agent("PPO", venv).learn(16)
    result = transfer_of(agent, observations, "choices", tmp_path / "run", method=method)
    if method == "daft_realign":
        assert result.realigned["inputs"] == (5 if observations == "vectors" else 2)


def test_episodes_of_several_environments_are_refused_before_learning() -> None:
    agent = make_agent("SAC", DummyVecEnv([lambda: Random("vector", "box")] * 2), train_freq=(1, "episode"))
    with pytest.raises(MethodError, match="use num_envs=1, or train_freq=1"):
        daft_rl.adapt(agent, calibration_steps=32)
    assert type(agent) is SAC


def test_gsde_draws_its_noise_once_an_episode_where_learning_counts_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent("SAC", DummyVecEnv([lambda: Random("vector", "box")]), train_freq=(1, "episode"), use_sde=True)
    drawn: list[Any] = []
    monkeypatch.setattr(type(agent.policy), "reset_noise", lambda *args: drawn.append(args))
    daft_rl.adapt(agent, calibration_steps=24, insert_batchnorm=False)
    assert len(drawn) == 3, "24 steps are three episodes"


def test_realignment_moves_the_far_entries_of_a_dictionary() -> None:
    """The target's ``b`` is far from what the source knows; its rewards rise with every trial, so it is kept."""

    class Paid(Random):
        resets = 0

        def reset(self, **kwargs: Any) -> Any:
            type(self).resets += 1
            return super().reset(**kwargs)

        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return observation, float(self.resets), *rest

    normalizer = VecNormalize(DummyVecEnv([lambda: Paid("vectors", "discrete")]))
    agent = make_agent("PPO", normalizer)
    statistics: Any = normalizer.obs_rms
    statistics["b"].mean[:] = [0.0, 7.0, 0.0]
    found = realign(agent, normalizer.venv, 64, 0, 3.0)
    assert (found.inputs, found.moved) == (5, 1)
    assert abs(statistics["b"].mean[1]) < 1.0
    assert statistics["b"].mean[[0, 2]].tolist() == [0.0, 0.0]
    assert statistics["a"].mean.tolist() == [0.0, 0.0]


class Precise(PointMass):
    """Observes in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)


def test_an_agent_of_single_precision_is_no_mismatch_for_a_target_of_double_precision(tmp_path: Path) -> None:
    agent = build("PPO")
    agent.save(tmp_path / "agent.zip")
    few = {"num_envs": 1, "evaluation.episodes": 2, "calibration.steps": 16, "calibration.held_out": 8}
    played = [
        transfer(Precise, "zero_shot", source, output_dir=tmp_path / name, settings=few).final
        for name, source in (("object", agent), ("archive", tmp_path / "agent.zip"))
    ]
    assert played[0] == played[1]
