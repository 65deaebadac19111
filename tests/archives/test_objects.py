"""``transfer(source=agent)`` takes an agent as it would take the agent's archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import ARS, MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO, SAC

import daft_rl
from daft_rl.errors import AgentError
from daft_rl.run.results import TransferResult
from tests.archives.helpers import CHOICE, Spaces, make, save

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot be read without running code"),
    pytest.mark.filterwarnings("ignore:You have specified a mini-batch size"),
    pytest.mark.filterwarnings("ignore:.*gym-like environment"),
]
SETTINGS = {
    **{"num_envs": 2, "vec": "dummy", "calibration.steps": 16, "calibration.held_out": 16, "progress_bar": False},
    **{"evaluation.episodes": 2, "evaluation.episodes_during": 1},
}


class Bounded(Spaces):
    """Other bounds, and numbers of another size, that mean nothing to a policy."""

    def __init__(self) -> None:
        super().__init__(spaces.Box(-5, 5, (3,), np.float32))


class Wide(Spaces):
    def __init__(self) -> None:
        super().__init__(action_space=spaces.Box(-4, 4, (2,)))


class Long(Spaces):
    def __init__(self) -> None:
        super().__init__(spaces.Box(-5, 5, (4,)))


class Keyed(Spaces):
    def __init__(self) -> None:
        super().__init__(spaces.Dict({"a": spaces.Box(-5, 5, (3,))}))


def play(env: type[gym.Env[Any, Any]], source: Any, folder: Path, **settings: Any) -> TransferResult:
    given = {name.replace("__", "."): value for name, value in settings.items()}
    return daft_rl.transfer(env, "zero_shot", source, output_dir=folder, settings=SETTINGS | given)


@pytest.mark.parametrize("kind", [PPO, SAC])
def test_bounds_that_mean_nothing_may_differ_as_for_an_archive(kind: Any, tmp_path: Path) -> None:
    model = make(kind)
    path = save(model, tmp_path)
    returns = [
        play(Bounded, model, tmp_path / "object").final["target"].returns,
        play(Bounded, path, tmp_path / "archive").final["target"].returns,
    ]
    if kind is PPO:
        with pytest.warns(UserWarning, match="trust=True"):
            returns.append(play(Bounded, path, tmp_path / "trusted", agent__trust=True).final["target"].returns)
    assert all(len(each) == 2 for each in returns)


@pytest.mark.parametrize(
    ("env", "advice"),
    [
        (Wide, r"action space.*RescaleAction"),
        (Long, r"observation space.*\(3,\).*\(4,\).*save the agent and pass the archive with correspondence="),
        (Keyed, r"observation space.*FlattenObservation"),
    ],
)
def test_spaces_that_matter_are_refused_with_advice_for_an_object(env: Any, advice: str, tmp_path: Path) -> None:
    model = make(PPO)
    with pytest.raises(AgentError, match=advice):
        play(env, model, tmp_path / "run")
    if env is Long:  # the advice leads on
        play(env, save(model, tmp_path), tmp_path / "adapted", agent__correspondence="positions")


@pytest.mark.parametrize(
    ("kind", "policy", "arguments"),
    [(RecurrentPPO, "MlpLstmPolicy", {}), (ARS, "MlpPolicy", {}), (MaskablePPO, "MlpPolicy", {"action_space": CHOICE})],
)
@pytest.mark.parametrize("algo", [None, "ppo"])
def test_an_agent_of_another_kind_is_refused_by_name(
    kind: Any, policy: str, arguments: Any, algo: str | None, tmp_path: Path
) -> None:
    model = kind(policy, Spaces(**arguments), device="cpu")
    with pytest.raises(AgentError, match=rf"{kind.__name__}.*PPO, A2C|{kind.__name__}.*a2c, crossq") as told:
        daft_rl.transfer(Spaces, source=model, algo=algo, output_dir=tmp_path / "run")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


def test_what_is_no_agent_is_named_by_its_class(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"got an object of Linear"):
        daft_rl.transfer(Spaces, source=torch.nn.Linear(2, 2), output_dir=tmp_path / "run")  # type: ignore[arg-type]
