"""Transfers to environments of Gymnasium's registry and to Python objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import yaml
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.cli import compose_settings
from daft_rl.errors import AgentError, DaftError, TaskError
from daft_rl.method import Method
from daft_rl.pretrain import run as pretrain
from daft_rl.transfer import transfer
from tests.conftest import parse
from tests.envs.test_domain import OFF_POLICY, ON_POLICY, TINY, Windy


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    PPO("MlpPolicy", Windy(), n_steps=64, seed=0, device="cpu").learn(64).save(tmp_path / "agent.zip")
    return tmp_path / "agent.zip"


def test_transfer_to_a_registered_environment(agent: Path, tmp_path: Path) -> None:
    result = transfer(
        "gymnasium", "daft", source=agent, total_timesteps=128, output_dir=tmp_path / "run",
        settings=parse(["env.id=Windy-v0", "env.kwargs.wind=2", *TINY, *ON_POLICY]),
    )  # fmt: skip
    assert result.zero_shot["target"].mean < result.zero_shot["source"].mean
    saved = json.loads((tmp_path / "run" / "results.json").read_text())
    assert saved["task"] == "Windy-v0"
    assert saved["shift"] == {"kwargs": {"wind": 2}}
    assert saved["algo"] == "ppo"
    PPO.load(tmp_path / "run" / "final.zip", device="cpu")


@pytest.mark.parametrize("kind", [PPO, DQN])
def test_agents_with_discrete_actions_can_transfer(kind: type[BaseAlgorithm], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"n_steps": 64} if kind is PPO else {"learning_starts": 20}
    kind("MlpPolicy", Windy(discrete=True), seed=0, device="cpu", **settings).learn(64).save(tmp_path / "agent.zip")
    result = transfer(
        "gymnasium", "daft", source=tmp_path / "agent.zip", total_timesteps=128, output_dir=tmp_path / "run",
        settings=parse([
            *("env.id=Windy-v0", "env.kwargs.wind=1", "env.kwargs.discrete=true", "env.source_kwargs.discrete=true"),
            *TINY, *(ON_POLICY if kind is PPO else OFF_POLICY),
        ]),
    )  # fmt: skip
    assert result.algo == kind.__name__.lower()
    assert result.timesteps >= 128


def test_environments_and_agents_may_be_python_objects(tmp_path: Path) -> None:
    source = SAC("MlpPolicy", Windy(), learning_starts=20, seed=0, device="cpu").learn(64)
    weights = {name: value.clone() for name, value in source.policy.state_dict().items()}
    result = transfer(
        lambda: gym.wrappers.TimeLimit(Windy(wind=1.0), 15), "daft", source=source, source_env=Windy(),
        total_timesteps=40, output_dir=tmp_path / "run", settings=parse([*TINY, *OFF_POLICY]),
    )  # fmt: skip
    assert result.zero_shot["target"].lengths == [15, 15]
    assert result.zero_shot["source"].lengths == [20, 20]
    assert result.algo == "sac"
    for name, value in source.policy.state_dict().items():
        assert value.equal(weights[name])  # the user's agent is not touched
    alone = transfer(
        Windy(wind=1.0), "daft", source=source, total_timesteps=40, output_dir=tmp_path / "alone",
        settings=parse([*TINY, *OFF_POLICY]),
    )  # fmt: skip
    assert set(alone.zero_shot) == {"target"}


def test_a_shift_keeps_keywords_and_wrappers(agent: Path, tmp_path: Path) -> None:
    transfer(
        "gymnasium", "daft", source=agent, shift={"observation_scale": 1.5}, output_dir=tmp_path,
        settings=parse(["env.id=Windy-v0", "env.kwargs.wind=3", "method=zero_shot", *TINY, *ON_POLICY]),
    )  # fmt: skip
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["shift"] == {"kwargs": {"wind": 3}, "observation_scale": 1.5}


def test_the_folder_has_the_name_of_the_method(agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for method in (Method(name="mine"), Method(name="mine").as_dict()):
        result = transfer(Windy, method, source=agent, total_timesteps=64, settings=parse([*TINY, *ON_POLICY]))
        assert result.folder.relative_to(tmp_path).parts[:3] == ("runs", "Windy", "mine")


def test_an_environment_of_the_user_needs_an_agent() -> None:
    with pytest.raises(DaftError, match="source="):
        transfer(Windy())


@pytest.mark.parametrize(
    "settings",
    [
        {"shift": {"observation_noise": 1.0}},
        {"settings": parse(["env.shift.observation_noise=1.0"])},
        {"settings": parse(["env.wrappers=['tests.envs.test_domain:Doubled']"])},
        {"settings": parse(["evaluation.elsewhere=[gravity-2.0]"])},
    ],
)
def test_settings_that_an_environment_of_the_user_would_ignore_are_errors(
    settings: dict[str, Any], agent: Path, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match="taken as it is"):
        transfer(Windy, source=agent, output_dir=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_results_are_saved_if_nothing_can_render(
    agent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transfer(
        "gymnasium", "daft", source=agent, output_dir=tmp_path,
        settings=parse(["env.id=Windy-v0", "method=zero_shot", "render=true", *TINY, *ON_POLICY]),
    )  # fmt: skip
    assert json.loads((tmp_path / "results.json").read_text())["task"] == "Windy-v0"
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("render: no ")]
    assert [line.split()[2] for line in told] == ["target.mp4.", "source.mp4."]


def test_settings_that_a_passed_agent_would_ignore_are_errors(tmp_path: Path) -> None:
    source = PPO("MlpPolicy", Windy(), n_steps=64, seed=0, device="cpu")
    for overrides, message in [
        (["agent.adapt_spaces=true"], "agent.correspondence is for archives"),
        (["agent.activation=relu"], "agent.activation is for archives"),
    ]:
        with pytest.raises(AgentError, match=message):
            transfer(Windy, source=source, output_dir=tmp_path, settings=parse([*overrides, *TINY, *ON_POLICY]))
    with pytest.raises(AgentError, match="The agent was trained on the action space"):
        transfer(lambda: Windy(discrete=True), source=source, output_dir=tmp_path, settings=parse([*TINY, *ON_POLICY]))
    learnt = SAC("MlpPolicy", Windy(), seed=0, device="cpu")
    with pytest.raises(AgentError, match="ent_coef"):
        transfer(
            Windy,
            source=learnt,
            output_dir=tmp_path,
            settings=parse(["algo.settings.ent_coef=0.1", *TINY, *OFF_POLICY]),
        )
    with pytest.raises(TaskError, match="source_env"):
        transfer("Ant-shifted", source_env=Windy(), output_dir=tmp_path)


def test_settings_win_over_mappings_and_steps(agent: Path, tmp_path: Path) -> None:
    result = transfer(
        "gymnasium", {"name": "mine", "actor_head": {"scale": 0.5}}, source=agent, total_timesteps=640,
        shift={"observation_scale": 2.0}, output_dir=tmp_path,
        settings=parse([
            *("env.id=Windy-v0", "total_timesteps=64", "method.actor_head.scale=0.25", "env.shift.action_delay=1"),
            *TINY, *ON_POLICY,
        ]),
    )  # fmt: skip
    assert (result.timesteps, result.method) == (64, "mine")
    assert result.shift == {"observation_scale": 2.0, "action_delay": 1}
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["method"]["actor_head"]["scale"] == 0.25


def test_settings_win_over_arguments(agent: Path, tmp_path: Path) -> None:
    result = transfer(
        lambda: Windy(), "daft", source=agent, seed=1, total_timesteps=64, output_dir=tmp_path / "run",
        settings=parse(["seed=3", f"output_dir={tmp_path / 'other'}", "method=zero_shot", *TINY, *ON_POLICY]),
    )  # fmt: skip
    assert (result.seed, result.method, result.folder) == (3, "zero_shot", tmp_path / "other")
    assert result.task == "own"
    assert not (tmp_path / "run").exists()


def test_pretraining_uses_the_configured_environment(tmp_path: Path) -> None:
    overrides = [
        "env=gymnasium", "env.id=Windy-v0", "env.kwargs.wind=1000", "env.wrappers=['tests.envs.test_domain:Doubled']",
        "recipe=Ant-ppo", "recipe.extractor.hidden=[8]", "recipe.settings.n_steps=32", "recipe.settings.batch_size=32",
        "total_timesteps=64", f"output_dir={tmp_path / 'source'}", *TINY[:4], TINY[-1],
    ]  # fmt: skip
    card = pretrain(compose_settings("pretrain", overrides), overrides)
    assert card["returns"]["mean"] < -20_000, "of 20 steps in a storm, doubled"
