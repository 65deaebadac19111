"""Environments that are not ours: registered ones with other keywords, wrappers, and Python objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.cli import compose_config, plain
from daft_rl.envs import make, make_vec, read_shift
from daft_rl.envs.domain import own_domains, read_domains
from daft_rl.envs.registry import own_maker
from daft_rl.errors import AgentError, DaftError, TaskError
from daft_rl.method import Method
from daft_rl.pretrain import run as pretrain
from daft_rl.transfer import transfer
from tests.conftest import PointMass

TINY = [
    *("num_envs=2", "evaluation.episodes=2", "evaluation.episodes_during=1", "calibration.steps=64"),
    *("calibration.held_out=32", "progress_bar=false"),
]
ON_POLICY = ["algo.settings.n_steps=32", "algo.settings.batch_size=32"]
OFF_POLICY = ["algo.settings.learning_starts=10", "algo.settings.buffer_size=500"]


class Windy(PointMass):
    """Has a keyword to shift by."""

    def __init__(self, wind: float = 0.0, discrete: bool = False) -> None:
        super().__init__(discrete)
        self.wind = wind

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.state = self.state + self.wind
        return super().step(action)


class Doubled(gym.RewardWrapper):
    """A wrapper to be named by its path."""

    def reward(self, reward: Any) -> float:
        return 2 * float(reward)


gym.register("Windy-v0", entry_point=Windy)


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    PPO("MlpPolicy", Windy(), n_steps=64, seed=0, device="cpu").learn(64).save(tmp_path / "agent.zip")
    return tmp_path / "agent.zip"


def compose(*overrides: str) -> dict:
    return plain(compose_config("transfer", ["env=gymnasium", *overrides]).env)


def test_keywords_make_the_target() -> None:
    domains = read_domains(compose("env.id=tests.envs.test_domain:Windy-v0", "env.kwargs.wind=3"))
    assert domains["target"].make().unwrapped.wind == 3  # type: ignore[attr-defined]
    assert domains["source"].make().unwrapped.wind == 0  # type: ignore[attr-defined]
    assert domains["target"].changes == {"kwargs": {"wind": 3}}
    domains = read_domains(compose("env.id=Windy-v0", "env.source_kwargs.wind=-1", "env.shift.observation_scale=2.0"))
    assert domains["source"].make().unwrapped.wind == -1  # type: ignore[attr-defined]
    plain_, scaled = (domains[role].make().reset(seed=1)[0] for role in ("source", "target"))
    np.testing.assert_allclose(scaled, 2 * plain_)


def test_wrappers_are_around_source_and_target() -> None:
    domains = read_domains(compose("env.id=Windy-v0", "env.wrappers=['tests.envs.test_domain:Doubled']"))
    rewards = []
    for env in (*(domain.make() for domain in domains.values()), Windy()):
        env.reset(seed=0)
        rewards.append(float(env.step(np.ones(2, np.float32))[1]))
    assert rewards[0] == rewards[1] == 2 * rewards[2]


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["env.id=Windy-v7"], ["Windy-v7", "registered"]),
        (["env.id=nothing_here:Windy-v0"], ["nothing_here", "my_package:MyEnv-v0"]),
        (
            ["env.id=Windy-v0", "env.wrappers=['tests.envs.test_domain:Nope']"],
            ["tests.envs.test_domain:Nope", "module:name"],
        ),
        (["env.id=Windy-v0", "env.kwargs.rain=1"], ["Windy-v0", "rain"]),
        (["env.id=Windy-v0", "env.wrappers=my_package:MyWrapper"], ["my_package:MyWrapper", "expected a list"]),
        (["env.id=Windy-v0", "env.kwargs=3"], ["env.kwargs=3", "keywords with values"]),
    ],
)
def test_mistakes_are_told(overrides: list[str], messages: list[str]) -> None:
    with pytest.raises(TaskError) as error:
        read_domains(compose(*overrides))["target"].make()
    for message in messages:
        assert message in str(error.value)


def test_the_target_is_not_elsewhere() -> None:
    cfg = compose_config("transfer", ["env=HalfCheetah-shifted"])
    with pytest.raises(TaskError, match=r"evaluation\.elsewhere: 'gravity-0\.5' is the target"):
        read_domains(plain(cfg.env), ["gravity-2.0", "gravity-0.5"])
    with pytest.raises(TaskError, match=r"expected a list of levels, \[gravity-2\.0\]"):
        read_domains(plain(cfg.env), "gravity-2.0")


def test_any_registered_id_is_a_task() -> None:
    venv = make_vec("Pendulum-v1", num_envs=2, seed=3, shift={"kwargs": {"g": 5.0}})
    assert venv.reset().shape == (2, 3)
    assert [env.unwrapped.g for env in venv.envs] == [5.0, 5.0]  # type: ignore[attr-defined]
    venv.close()
    assert make("CartPole-v1").spec.max_episode_steps == 500  # type: ignore[union-attr]
    with pytest.raises(TaskError, match="kwargs"):
        read_shift("Pendulum-v1", {"gravity": 5.0})


def test_transfer_to_a_registered_environment(agent: Path, tmp_path: Path) -> None:
    result = transfer(
        "gymnasium", source=agent, total_timesteps=128, output_dir=tmp_path / "run",
        overrides=["env.id=Windy-v0", "env.kwargs.wind=2", *TINY, *ON_POLICY],
    )  # fmt: skip
    assert result.zero_shot["target"].mean < result.zero_shot["source"].mean
    saved = json.loads((tmp_path / "run" / "results.json").read_text())
    assert saved["task"] == "Windy-v0"
    assert saved["shift"] == {"kwargs": {"wind": 2}}
    assert saved["algo"] == "ppo"
    PPO.load(tmp_path / "run" / "final.zip", device="cpu")


@pytest.mark.parametrize("kind", [PPO, DQN])
def test_discrete_actions(kind: type[BaseAlgorithm], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"n_steps": 64} if kind is PPO else {"learning_starts": 20}
    kind("MlpPolicy", Windy(discrete=True), seed=0, device="cpu", **settings).learn(64).save(tmp_path / "agent.zip")
    result = transfer(
        "gymnasium", source=tmp_path / "agent.zip", total_timesteps=128, output_dir=tmp_path / "run",
        overrides=[
            *("env.id=Windy-v0", "env.kwargs.wind=1", "env.kwargs.discrete=true", "env.source_kwargs.discrete=true"),
            *TINY, *(ON_POLICY if kind is PPO else OFF_POLICY),
        ],
    )  # fmt: skip
    assert result.algo == kind.__name__.lower()
    assert result.timesteps >= 128


def test_python_objects(tmp_path: Path) -> None:
    source = SAC("MlpPolicy", Windy(), learning_starts=20, seed=0, device="cpu").learn(64)
    weights = {name: value.clone() for name, value in source.policy.state_dict().items()}
    result = transfer(
        lambda: gym.wrappers.TimeLimit(Windy(wind=1.0), 15), source=source, source_env=Windy(), total_timesteps=40,
        output_dir=tmp_path / "run", overrides=[*TINY, *OFF_POLICY],
    )  # fmt: skip
    assert result.zero_shot["target"].lengths == [15, 15]
    assert result.zero_shot["source"].lengths == [20, 20]
    assert result.algo == "sac"
    for name, value in source.policy.state_dict().items():
        assert value.equal(weights[name])  # the user's agent is not touched
    alone = transfer(
        Windy(wind=1.0), source=source, total_timesteps=40, output_dir=tmp_path / "alone",
        overrides=[*TINY, *OFF_POLICY],
    )  # fmt: skip
    assert set(alone.zero_shot) == {"target"}


class Stubborn(Windy):
    """Cannot be copied."""

    def __deepcopy__(self, memo: Any) -> None:
        raise RuntimeError("no")


@pytest.mark.parametrize("env", [Stubborn(), "Ant", 3])
def test_objects_that_cannot_be(env: Any) -> None:
    with pytest.raises(TaskError):
        own_domains(env, None)


def test_what_was_changed_in_an_environment_is_not_lost_in_silence() -> None:
    env = gym.make("Ant-v5")
    assert own_maker(env)().unwrapped.model is not env.unwrapped.model  # type: ignore[attr-defined]
    env.unwrapped.model.opt.gravity[2] = -5.0  # type: ignore[attr-defined]
    with pytest.raises(TaskError, match="changed"):  # its own way of being copied is to be made anew
        own_maker(env)
    windy = gym.make("Windy-v0")
    windy.unwrapped.wind = 3.0  # type: ignore[attr-defined]
    assert own_maker(windy)().unwrapped.wind == 3.0  # type: ignore[attr-defined]


def test_a_shift_leaves_keywords_and_wrappers(agent: Path, tmp_path: Path) -> None:
    transfer(
        "gymnasium", source=agent, shift={"observation_scale": 1.5}, output_dir=tmp_path,
        overrides=["env.id=Windy-v0", "env.kwargs.wind=3", "method=zero_shot", *TINY, *ON_POLICY],
    )  # fmt: skip
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["shift"] == {"kwargs": {"wind": 3}, "observation_scale": 1.5}


def test_the_folder_bears_the_name_of_the_method(agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for method in (Method(name="mine"), Method(name="mine").as_dict()):
        result = transfer(Windy, method, source=agent, total_timesteps=64, overrides=[*TINY, *ON_POLICY])
        assert result.folder.parts[:3] == ("runs", "Windy", "mine")


def test_an_own_environment_needs_an_agent() -> None:
    with pytest.raises(DaftError, match="source="):
        transfer(Windy())


@pytest.mark.parametrize(
    "settings",
    [
        {"shift": {"observation_noise": 1.0}},
        {"overrides": ["env.shift.observation_noise=1.0"]},
        {"overrides": ["env.wrappers=['tests.envs.test_domain:Doubled']"]},
        {"overrides": ["evaluation.elsewhere=[gravity-2.0]"]},
    ],
)
def test_settings_that_an_own_environment_would_ignore(settings: dict, agent: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="taken as it is"):
        transfer(Windy, source=agent, output_dir=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_results_are_kept_where_nothing_can_render(
    agent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transfer(
        "gymnasium", source=agent, output_dir=tmp_path,
        overrides=["env.id=Windy-v0", "method=zero_shot", "render=true", *TINY, *ON_POLICY],
    )  # fmt: skip
    assert json.loads((tmp_path / "results.json").read_text())["task"] == "Windy-v0"
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("render: no ")]
    assert [line.split()[2] for line in told] == ["target.mp4.", "source.mp4."]


def test_what_an_agent_that_is_passed_would_ignore(tmp_path: Path) -> None:
    source = PPO("MlpPolicy", Windy(), n_steps=64, seed=0, device="cpu")
    for overrides, message in [
        (["agent.adapt_spaces=true"], "agent.adapt_spaces is for archives"),
        (["agent.activation=relu"], "agent.activation is for archives"),
    ]:
        with pytest.raises(AgentError, match=message):
            transfer(Windy, source=source, output_dir=tmp_path, overrides=[*overrides, *TINY, *ON_POLICY])
    with pytest.raises(AgentError, match="does not fit the target"):
        transfer(lambda: Windy(discrete=True), source=source, output_dir=tmp_path, overrides=[*TINY, *ON_POLICY])
    learnt = SAC("MlpPolicy", Windy(), seed=0, device="cpu")
    with pytest.raises(AgentError, match="ent_coef"):
        transfer(
            Windy, source=learnt, output_dir=tmp_path, overrides=["algo.settings.ent_coef=0.1", *TINY, *OFF_POLICY]
        )
    with pytest.raises(TaskError, match="source_env"):
        transfer("Ant-shifted", source_env=Windy(), output_dir=tmp_path)


def test_overrides_win_over_mappings_and_steps(agent: Path, tmp_path: Path) -> None:
    result = transfer(
        "gymnasium", {"name": "mine", "actor_head": {"scale": 0.5}}, source=agent, total_timesteps=640,
        shift={"observation_scale": 2.0}, output_dir=tmp_path,
        overrides=[
            *("env.id=Windy-v0", "total_timesteps=64", "method.actor_head.scale=0.25", "env.shift.action_delay=1"),
            *TINY, *ON_POLICY,
        ],
    )  # fmt: skip
    assert (result.timesteps, result.method) == (64, "mine")
    assert result.shift == {"observation_scale": 2.0, "action_delay": 1}
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["method"]["actor_head"] == {"scale": 0.25}


def test_overrides_win(agent: Path, tmp_path: Path) -> None:
    result = transfer(
        lambda: Windy(), source=agent, seed=1, total_timesteps=64, output_dir=tmp_path / "run",
        overrides=["seed=3", f"output_dir={tmp_path / 'other'}", "method=zero_shot", *TINY, *ON_POLICY],
    )  # fmt: skip
    assert (result.seed, result.method, result.folder) == (3, "zero_shot", tmp_path / "other")
    assert result.task == "own"
    assert not (tmp_path / "run").exists()


def test_a_source_learns_in_ones_own_environment_as_it_is_configured(tmp_path: Path) -> None:
    overrides = [
        "env=gymnasium", "env.id=Windy-v0", "env.kwargs.wind=1000", "env.wrappers=['tests.envs.test_domain:Doubled']",
        "recipe=Ant-ppo", "recipe.extractor.hidden=[8]", "recipe.settings.n_steps=32", "recipe.settings.batch_size=32",
        "total_timesteps=64", f"output_dir={tmp_path / 'source'}", *TINY[:4], TINY[-1],
    ]  # fmt: skip
    card = pretrain(compose_config("pretrain", overrides), overrides)
    assert card["returns"]["mean"] < -20_000, "of 20 steps in a storm, doubled"
