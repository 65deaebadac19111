"""What the message about statistics of another shape names works in a transfer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl import transfer
from daft_rl.archives.statistics_wrapper import TIME_FEATURE
from daft_rl.envs import make
from daft_rl.errors import AgentError
from tests.archives.helpers import ACTION, Spaces
from tests.conftest import parse
from tests.envs.test_domain import ON_POLICY, TINY

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot be read without running code"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def _env(size: int, actions: spaces.Space[Any] | None = None) -> gym.Env:
    return Spaces(spaces.Box(-np.inf, np.inf, (size,)), ACTION if actions is None else actions)


gym.register("Eight-v0", entry_point=lambda **_: _env(8), max_episode_steps=5)


def _agent(size: int, folder: Path, actions: spaces.Space[Any] | None) -> Path:
    venv = VecNormalize(DummyVecEnv([lambda: _env(size, actions)]))
    PPO("MlpPolicy", venv, n_steps=8, batch_size=8, device="cpu", policy_kwargs={"net_arch": [4]}).save(
        folder / "agent.zip"
    )
    venv.save(str(folder / "vecnormalize.pkl"))
    return folder / "agent.zip"


@pytest.mark.parametrize(
    ("size", "gives", "named", "settings"),
    [
        (111, 27, "correspondence='positions'", {"agent.correspondence": "positions"}),
        (9, 8, TIME_FEATURE, {"env.wrappers": [TIME_FEATURE]}),
        (12, 11, TIME_FEATURE, {"env.wrappers": [TIME_FEATURE]}),
    ],
)
def test_what_the_message_names_works(
    size: int, gives: int, named: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    env: Any = {8: "Eight-v0", 11: "mujoco/Hopper-v5"}.get(gives, lambda: _env(gives))
    actions = make(env).action_space if isinstance(env, str) else None
    common: dict[str, Any] = {"source": _agent(size, tmp_path, actions), "total_timesteps": 64}
    given = parse([*TINY, *ON_POLICY])
    with pytest.raises(AgentError) as refusal:
        transfer(env, output_dir=tmp_path / "refused", settings=given, **common)
    assert named in str(refusal.value)
    result = transfer(env, "daft", output_dir=tmp_path / "run", settings=given | settings, **common)
    assert result.timesteps == 64
    assert result.statistics is not None
