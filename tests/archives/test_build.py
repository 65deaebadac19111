"""Replay buffers and spaces of the agent that is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv

from daft_rl.archives import load_agent
from daft_rl.errors import AgentError
from tests.archives.helpers import CHOICE, MIXED, VECTOR, Spaces, assert_same, make, save

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot be read without running code"),
    pytest.mark.filterwarnings("ignore:You have specified a mini-batch size"),
]


def test_an_agent_has_a_replay_buffer_only_with_an_environment(tmp_path: Path) -> None:
    path = save(make(SAC), tmp_path)

    def load(**arguments: Any) -> Any:
        return load_agent(path, device="cpu", **arguments)

    model = load()
    assert (model.replay_buffer, model.buffer_size) == (None, 50)
    assert load(env=Spaces()).replay_buffer.buffer_size == 50
    assert load(env=Spaces(), buffer_size=7).replay_buffer.buffer_size == 7
    assert load(buffer_size=7).replay_buffer.buffer_size == 7


def test_other_spaces_are_refused_with_both_shapes(tmp_path: Path) -> None:
    path = save(make(SAC), tmp_path)
    for env, match in (
        (Spaces(spaces.Box(-np.inf, np.inf, (5,))), r"\(3,\).*\(5,\)"),
        (Spaces(spaces.Dict({"a": VECTOR})), r"\(3,\).*Dict"),
        (Spaces(action_space=spaces.Box(-1, 1, (4,))), r"\(2,\).*\(4,\)"),
        (Spaces(action_space=spaces.Box(-1, 1, (2,))), r"action space Box.*RescaleAction"),
        (Spaces(action_space=CHOICE), r"action space Box.*Discrete\(3\)"),
    ):
        with pytest.raises(AgentError, match=match):
            load_agent(path, env=env)
    name: Any = "HalfCheetah-v5"
    with pytest.raises(AgentError, match="gymnasium environment or a VecEnv"):
        load_agent(path, env=name)
    bounded = Spaces(spaces.Box(-5, 5, (3,), np.float32))  # bounds of observations mean nothing to the policy
    venv = load_agent(path, env=bounded).get_env()
    assert venv is not None
    assert venv.num_envs == 1
    assert load_agent(path, env=DummyVecEnv([Spaces, Spaces])).n_envs == 2


def test_the_integer_type_of_choices_does_not_matter(tmp_path: Path) -> None:
    path = save(make(PPO, action_space=spaces.Discrete(3, dtype=np.int32)), tmp_path)
    load_agent(path, env=Spaces(action_space=CHOICE))
    for other in (spaces.Discrete(4), spaces.Discrete(3, start=1), spaces.MultiDiscrete([3])):
        with pytest.raises(AgentError, match="action space"):
            load_agent(path, env=Spaces(action_space=other))


def test_dictionary_keys_in_another_order_are_refused(tmp_path: Path) -> None:
    path = save(make(PPO, MIXED, policy="MultiInputPolicy"), tmp_path)
    turned = spaces.Dict(dict(reversed(MIXED.spaces.items())), sort_keys=False)
    with pytest.raises(AgentError, match="observation space"):
        load_agent(path, env=Spaces(turned))


def test_spaces_that_numpy_abbreviated_come_from_the_environment(tmp_path: Path) -> None:
    wide = spaces.Box(-np.arange(1.0, 1203.0), np.inf, (1202,), np.float64)
    model = make(PPO, wide)
    path = save(model, tmp_path)
    with pytest.raises(AgentError, match=r"does not tell its observation space.*Pass env="):
        load_agent(path)
    assert_same(model, load_agent(path, env=Spaces(wide)))
    with pytest.raises(AgentError, match=r"takes 1202 inputs.*\(1203,\)"):
        load_agent(path, env=Spaces(spaces.Box(-1, 1, (1203,))))
