"""The shipped sources earn what their cards say."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from sb3_contrib import CrossQ
from stable_baselines3 import PPO

from daft_rl import load_agent
from daft_rl.archives import find_agent
from daft_rl.batchnorm import batchnorm_layers
from daft_rl.cli import compose_settings
from daft_rl.envs import make_vec
from daft_rl.envs.registry import CONFIGS
from daft_rl.errors import AgentError
from daft_rl.rollout.evaluation import evaluate

ALGORITHMS: dict[str, type[Any]] = {"ppo": PPO, "crossq": CrossQ}
FLOORS = {
    "Ant-crossq": 4600,
    "Ant-ppo": 3000,
    "Door-crossq": 300,
    "HalfCheetah-crossq": 9000,
    "HalfCheetah-ppo": 5800,
    "SafetyCarGoal0-ppo": 30,
    "SafetyPointGoal-ppo": 20,
    "SafetyPointGoal-ppo-limit15": 12.5,
    "Wipe-crossq": 60,
}


def test_every_shipped_agent_has_a_floor() -> None:
    assert {folder.name for folder in (CONFIGS.parent / "agents" / "pretrained").iterdir()} == set(FLOORS)


SLOW = {"Door-crossq", "Wipe-crossq"}  # episodes of robosuite take half a minute


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in FLOORS]
)
def test_shipped_agents_are_what_their_cards_say(name: str) -> None:
    archive = find_agent("", "", name)
    card = json.loads(archive.with_name("card.json").read_text())
    assert card["name"] == name
    assert card["returns"]["mean"] >= FLOORS[name]
    assert len(card["returns"]["returns"]) == 20
    if "limit" in name:
        assert card["returns"]["mean_cost"] <= 25
    assert f"{card['returns']['mean']:.1f}" in archive.with_name("README.md").read_text()
    assert archive.stat().st_size < 1_500_000
    model = ALGORITHMS[card["algo"]].load(archive, device="cpu")
    actor, critic = ("pi_features_extractor", "vf_features_extractor") if card["algo"] == "ppo" else ("actor", "critic")
    assert all(len(batchnorm_layers(getattr(model.policy, part))) >= 3 for part in (actor, critic))
    episodes = 2
    played = evaluate(model, make_vec(card["task"], num_envs=episodes, vec="dummy"), episodes, seed=10_000)
    assert played.mean + 2 * played.std / episodes**0.5 >= FLOORS[name]  # few episodes of a chaotic simulation


def test_missing_agents_are_told() -> None:
    with pytest.raises(AgentError, match=r"No source for task 'Ant' and algorithm 'nope'.*daft_rl\.pretrain"):
        find_agent("Ant", "nope")


@pytest.mark.parametrize(
    ("task", "algo", "command"),
    [
        ("SafetyCarGoal", "ppo", "env=SafetyCarGoal algo=ppo recipe=Ant-ppo"),
        ("Ant", "sac", "env=Ant algo=sac recipe=HalfCheetah-sac"),
        ("mujoco/Hopper-v5", "ppo", "env=mujoco env.id=Hopper-v5 algo=ppo recipe=Ant-ppo"),
        ("SafetyCarPush1-v0", "ppo", "env=safety env.name=SafetyCarPush1-v0 algo=ppo recipe=Ant-ppo"),
        ("Pendulum-v1", "crossq", "env=gymnasium env.id=Pendulum-v1 algo=crossq recipe=Ant-crossq"),
    ],
)
def test_the_command_that_would_train_a_missing_source_exists(task: str, algo: str, command: str) -> None:
    with pytest.raises(AgentError, match=re.escape(f"`python -m daft_rl.pretrain {command}`")):
        find_agent(task, algo)
    assert compose_settings("pretrain", [*command.split(), "output_dir=out"]).algo.name == algo


def test_a_shipped_source_is_loaded_by_its_name() -> None:
    assert type(load_agent("Ant-ppo", device="cpu")).__name__ == "PPO"
