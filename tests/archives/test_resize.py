"""For longer or shorter observations and actions, common weights are kept and a warning names the tensors."""

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
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl import load_agent
from daft_rl.errors import AgentError
from daft_rl.transfer import transfer
from tests.conftest import ALGORITHMS, DISCRETE, build, parse


class Sized(gym.Env):
    """Any number of observations and actions; nothing happens."""

    def __init__(self, observations: int, actions: int, discrete: bool = False) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (observations,))
        self.action_space = spaces.Discrete(actions) if discrete else spaces.Box(-2.0, 2.0, (actions,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[Any], dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.normal(size=self.observation_space.shape).astype(np.float32), {}

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        return self.np_random.normal(size=self.observation_space.shape).astype(np.float32), 0.0, False, False, {}


@pytest.fixture(params=[name for name in ALGORITHMS if name not in DISCRETE])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An agent for 3 observations and 2 actions."""
    build(request.param).save(tmp_path / "agent.zip")
    return tmp_path / "agent.zip"


def test_other_sizes_are_refused_with_both_shapes(archive: Path) -> None:
    with pytest.raises(AgentError, match=r"shape \(3,\).*shape \(5,\).*adapt_spaces"):
        load_agent(archive, env=Sized(5, 2))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("observations", [2, 3, 5])
def test_the_weights_of_common_observations_are_kept(archive: Path, observations: int) -> None:
    """If the weights of new entries are zero, the policy computes what it did."""
    old, new = load_agent(archive), load_agent(archive, env=Sized(observations, 2), adapt_spaces=True)
    before, after = old.policy.state_dict(), new.policy.state_dict()
    for name, tensor in after.items():
        if tensor.shape == before[name].shape:
            assert torch.equal(tensor, before[name])
    entries = torch.randn(20, max(3, observations))
    if observations > 3:
        with torch.no_grad():
            for name, tensor in after.items():
                if tensor.ndim == 2 and tensor.shape != before[name].shape:
                    tensor[:, 3:observations] = 0.0
    else:
        with torch.no_grad():
            for name, tensor in before.items():
                if tensor.ndim == 2 and tensor.shape != after[name].shape:
                    tensor[:, observations:3] = 0.0
    expected = old.predict(entries[:, :3].numpy(), deterministic=True)[0]
    np.testing.assert_allclose(
        new.predict(entries[:, :observations].numpy(), deterministic=True)[0], expected, rtol=1e-4, atol=1e-5
    )
    new.learn(64)


def test_a_critic_keeps_its_columns_of_observation_and_action(tmp_path: Path) -> None:
    build("SAC").save(tmp_path / "agent.zip")
    with pytest.warns(UserWarning, match=r"critic\.qf0\.0\.weight") as warned:
        new: Any = load_agent(tmp_path / "agent.zip", env=Sized(3, 4), adapt_spaces=True)
    assert any("actor.mu.weight (2, 16) -> (4, 16)" in str(warning.message) for warning in warned)
    old: Any = load_agent(tmp_path / "agent.zip")
    before = old.policy.critic.qf0[0].weight
    after = new.policy.critic.qf0[0].weight
    features = before.shape[1] - 2
    assert torch.equal(after[:, : features + 2], before)


@pytest.mark.filterwarnings("ignore:.*cannot be read without running code")
@pytest.mark.parametrize("choices", [2, 5])
@pytest.mark.parametrize("name", sorted(DISCRETE))
def test_the_values_of_common_choices_are_kept(name: str, choices: int, tmp_path: Path) -> None:
    build(name).save(tmp_path / "agent.zip")
    old: Any = load_agent(tmp_path / "agent.zip")
    with pytest.warns(UserWarning, match="start at random"):
        new: Any = load_agent(tmp_path / "agent.zip", env=Sized(3, choices, discrete=True), adapt_spaces=True)
    common = min(3, choices)
    observations = torch.randn(20, 3)
    network = "q_net" if name == "DQN" else "quantile_net"
    before, after = (getattr(model.policy, network)(observations) for model in (old, new))
    assert after.shape[-1] == choices
    torch.testing.assert_close(after[..., :common], before[..., :common])
    new.learn(64)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["SAC", "TQC", "CrossQ"])
def test_an_automatic_target_of_the_entropy_follows_the_actions(name: str, tmp_path: Path) -> None:
    for given, expected in (("auto", -5.0), (-1.5, -1.5)):
        build(name, target_entropy=given).save(tmp_path / "agent.zip")
        new: Any = load_agent(tmp_path / "agent.zip", env=Sized(3, 5), adapt_spaces=True)
        assert new.target_entropy == expected
    own: Any = load_agent(tmp_path / "agent.zip", env=Sized(3, 5), adapt_spaces=True, target_entropy=-2.0)
    assert own.target_entropy == -2.0


def test_ambiguous_changes_are_refused(tmp_path: Path) -> None:
    ALGORITHMS["SAC"]("MlpPolicy", Sized(3, 2), policy_kwargs={"net_arch": [8]}).save(tmp_path / "agent.zip")
    with pytest.raises(AgentError, match="one at a time"):
        load_agent(tmp_path / "agent.zip", env=Sized(2, 3), adapt_spaces=True)


def test_dictionaries_are_refused(tmp_path: Path) -> None:
    build("PPO").save(tmp_path / "agent.zip")
    env = Sized(3, 2)
    env.observation_space = spaces.Dict({"a": env.observation_space})  # type: ignore[assignment]
    with pytest.raises(AgentError, match="vectors"):
        load_agent(tmp_path / "agent.zip", env=env, adapt_spaces=True)


def test_statistics_beside_the_agent_are_resized(tmp_path: Path) -> None:
    venv: Any = VecNormalize(DummyVecEnv([lambda: Sized(3, 2)]))
    PPO("MlpPolicy", venv, n_steps=64, seed=0, device="cpu").learn(64).save(tmp_path / "agent.zip")
    venv.save(str(tmp_path / "vecnormalize.pkl"))
    with pytest.warns(UserWarning, match="start at random"):
        model = load_agent(tmp_path / "agent.zip", env=Sized(4, 2), adapt_spaces=True)
    normalizer: Any = model.get_vec_normalize_env()
    assert normalizer is not None
    np.testing.assert_array_equal(normalizer.obs_rms.mean, [*venv.obs_rms.mean, 0.0])
    np.testing.assert_array_equal(normalizer.obs_rms.var, [*venv.obs_rms.var, 1.0])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_transfer_does_not_play_where_the_agent_no_longer_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build("PPO").save(tmp_path / "agent.zip")
    result = transfer(
        lambda: TimeLimit(Sized(5, 2), 10),
        source=tmp_path / "agent.zip",
        source_env=lambda: TimeLimit(Sized(3, 2), 10),
        total_timesteps=64,
        output_dir=tmp_path / "run",
        settings=parse(
            [
                *("agent.adapt_spaces=true", "num_envs=2", "evaluation.episodes=2", "evaluation.episodes_during=1"),
                *("calibration.steps=64", "calibration.held_out=32", "progress_bar=false", "algo.settings.n_steps=32"),
            ]
        ),
    )
    assert set(result.zero_shot) == set(result.final) == {"target"}
    assert "'source'" in capsys.readouterr().err
