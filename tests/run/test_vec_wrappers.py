"""Wrappers of whole batches, inside and outside of an agent's statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from daft_rl import transfer
from daft_rl.archives import load_agent
from daft_rl.cli import compose_settings
from daft_rl.errors import AgentError, ConfigError, DaftError, TaskError
from daft_rl.run.vec_wrappers import VecWrappers
from tests.conftest import PointMass, parse
from tests.envs.test_domain import OFF_POLICY, ON_POLICY, TINY

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot be read without running code"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

STACK = {"path": "stable_baselines3.common.vec_env:VecFrameStack", "kwargs": {"n_stack": 2}}
PLACES: dict[str, list[Any]] = {"outside": ["VecNormalize", STACK], "inside": [STACK], "alone": [STACK]}


def _make() -> gym.Env:
    return Monitor(PointMass())


def _batch(place: str) -> Any:
    """What the agent learnt in, as rl-zoo and others wrap it."""
    plain = DummyVecEnv([_make])
    if place == "outside":
        return VecFrameStack(VecNormalize(plain), 2)
    stacked = VecFrameStack(plain, 2)
    return VecNormalize(stacked) if place == "inside" else stacked


def _agent(place: str, folder: Path, kind: Any = PPO) -> tuple[Path, list[float]]:
    """An agent, its statistics, and its returns as SB3 plays it."""
    venv = _batch(place)
    own: dict[str, Any] = {"n_steps": 32, "batch_size": 32} if kind is PPO else {"learning_starts": 10}
    model = kind("MlpPolicy", venv, seed=0, device="cpu", **own)
    if kind is PPO:
        model.learn(64)
    model.save(folder / "agent.zip")
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        normalizer.save(str(folder / "vecnormalize.pkl"))
        normalizer.training = normalizer.norm_reward = False
    venv.seed(10_000)
    returns, _ = evaluate_policy(model, venv, 1, return_episode_rewards=True)
    return folder / "agent.zip", returns  # type: ignore[return-value]


@pytest.mark.parametrize("place", list(PLACES))
@pytest.mark.parametrize("given", ["archive", "object"])
def test_a_transfer_plays_as_sb3_does(place: str, given: str, tmp_path: Path) -> None:
    agent, expected = _agent(place, tmp_path)
    source: Any = agent
    if given == "object":
        batch = (
            _batch("alone")
            if place == "alone"
            else VecNormalize.load(str(tmp_path / "vecnormalize.pkl"), _inner(place))
        )
        source = PPO.load(agent, env=VecFrameStack(batch, 2) if place == "outside" else batch, device="cpu")
    result = transfer(
        PointMass, "daft", source=source, source_env=PointMass, total_timesteps=64, output_dir=tmp_path / "run",
        settings=parse([*TINY, *ON_POLICY]) | {"env.vec_wrappers": PLACES[place], "evaluation.every": 32},
    )  # fmt: skip
    np.testing.assert_allclose(result.zero_shot["target"].returns[0], expected[0], rtol=1e-6)
    assert result.timesteps == 64
    final = load_agent(tmp_path / "run" / "final.zip", env=_final_env(place, tmp_path), device="cpu")
    assert final.observation_space.shape == (6,)


def _inner(place: str) -> Any:
    return VecFrameStack(DummyVecEnv([_make]), 2) if place == "inside" else DummyVecEnv([_make])


def _final_env(place: str, folder: Path) -> Any:
    if place != "outside":
        return VecFrameStack(DummyVecEnv([_make]), 2)
    return VecFrameStack(VecNormalize.load(str(folder / "run" / "vecnormalize.pkl"), DummyVecEnv([_make])), 2)


def test_off_policy_agents_see_through_wrappers_inside_only(tmp_path: Path) -> None:
    agent, _ = _agent("inside", tmp_path, SAC)
    settings = parse([*TINY, *OFF_POLICY])
    result = transfer(
        PointMass, "daft", source=agent, total_timesteps=30, output_dir=tmp_path / "run",
        settings=settings | {"env.vec_wrappers": [STACK]},
    )  # fmt: skip
    assert result.timesteps >= 30
    with pytest.raises(AgentError, match="replay buffers"):
        transfer(
            PointMass, source=agent, total_timesteps=30, output_dir=tmp_path / "outside",
            settings=settings | {"env.vec_wrappers": ["VecNormalize", STACK], "agent.vecnormalize": "none"},
        )  # fmt: skip


def test_the_command_line_takes_wrappers_with_arguments() -> None:
    path = STACK["path"]
    given = [f"env.vec_wrappers=[VecNormalize,{{path: '{path}', kwargs: {{n_stack: 2}}}}]"]
    settings = compose_settings("transfer", ["env=Ant-shifted", "output_dir=out", *given])
    wrappers = VecWrappers(settings.env.vec_wrappers)
    assert not wrappers.inside
    assert [wrapper.kwargs for wrapper in wrappers.outside] == [{"n_stack": 2}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["os:system"], "no wrapper of batches"),
        (["builtins:exec"], "no wrapper of batches"),
        (["gymnasium.wrappers:TimeLimit"], "no wrapper of batches"),
        (
            [{"path": "stable_baselines3.common.vec_env:VecMonitor", "kwargs": {"filename": "x"}}],
            r"monitor\.csv itself",
        ),
        ([{"path": "stable_baselines3.common.vec_env:VecVideoRecorder"}], "render=True"),
        (["stable_baselines3.common.vec_env:VecNormalize"], "marks the place"),
        (["nowhere.to.be:Found"], "nowhere"),
        (["VecFrameStack"], "expected import paths"),
        ([{"path": STACK["path"], "n_stack": 2}], "expected import paths"),
        ([3], "expected import paths"),
        (["VecNormalize", "VecNormalize"], "there twice"),
        ([{"path": STACK["path"]}], "cannot wrap the environments"),
    ],
)
def test_what_is_no_wrapper_of_batches_is_refused(given: list[Any], message: str, tmp_path: Path) -> None:
    agent = PPO("MlpPolicy", PointMass(), n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(DaftError, match=message) as refusal:
        transfer(
            PointMass, source=agent, output_dir=tmp_path / "run",
            settings=parse([*TINY, *ON_POLICY]) | {"env.vec_wrappers": given},
        )  # fmt: skip
    assert isinstance(refusal.value, TaskError | ConfigError)


def test_worlds_and_pretraining_have_no_place_for_them() -> None:
    with pytest.raises(ConfigError, match="pretraining has none"):
        compose_settings("pretrain", ["env=Ant", "output_dir=out", "env.vec_wrappers=[VecNormalize]"])
