"""An agent of every algorithm, without BatchNorm, is transferred with the algorithm's own settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.cli import expand
from daft_rl.errors import AgentError
from daft_rl.transfer import transfer
from tests.conftest import ALGORITHMS, DISCRETE, OFF_POLICY, PointMass, algorithms, parse
from tests.envs.test_domain import TINY


def train(name: str, path: Path) -> BaseAlgorithm:
    settings: dict[str, Any] = {"learning_starts": 20} if name in OFF_POLICY else {"n_steps": 64}
    model = ALGORITHMS[name](
        "MlpPolicy", PointMass(name in DISCRETE), policy_kwargs={"net_arch": [16]}, seed=0, device="cpu", **settings
    )
    model.learn(64).save(path)
    return model


@pytest.mark.parametrize("algorithm", algorithms())
def test_a_transfer_changes_finite_weights(algorithm: str, tmp_path: Path) -> None:
    train(algorithm, tmp_path / "agent.zip")
    cheap = ["algo.settings.learning_starts=100", "algo.settings.buffer_size=3000"]
    cheap += ["algo.settings.train_freq=4", "algo.settings.gradient_steps=1"]
    result = transfer(
        lambda: PointMass(algorithm in DISCRETE), "daft",
        source=tmp_path / "agent.zip", total_timesteps=512, output_dir=tmp_path / "run",
        settings=parse([*TINY, "num_envs=8", *(cheap if algorithm in OFF_POLICY else ["algo.settings.n_steps=32"])]),
    )  # fmt: skip
    assert result.algo == algorithm.lower()
    assert result.timesteps >= 512
    tuned = ALGORITHMS[algorithm].load(tmp_path / "run" / "final.zip", device="cpu")
    assert all(torch.isfinite(value).all() for value in tuned.policy.state_dict().values() if value.is_floating_point())
    changed = [name for name, measured in result.distortion.items() if measured.get("weight_l2")]
    assert changed


def test_the_command_line_recognizes_the_algorithm_of_an_archive(tmp_path: Path) -> None:
    for name in ("SAC", "PPO"):
        train(name, tmp_path / f"{name}.zip")
    assert expand([f"agent={tmp_path}/SAC.zip"]) == [f"agent.path={tmp_path}/SAC.zip", "algo=sac"]
    assert expand([f"agent.path='{tmp_path}/PPO.zip'", "seed=1"])[-1] == "algo=ppo"
    assert expand([f"agent={tmp_path}/SAC.zip", "algo=mine"])[-1] == "algo=mine"
    assert expand(["agent=Ant-ppo"])[-1] == "algo=ppo"
    assert expand(["agent=null", "env=Ant-shifted"]) == ["agent.path=null", "env=Ant-shifted"]
    with pytest.raises(AgentError, match="ppo, sac"):
        expand([f"agent={tmp_path}/SAC.zip,{tmp_path}/PPO.zip"])


@pytest.mark.parametrize("kind", [RecurrentPPO, MaskablePPO])
def test_what_is_not_supported_is_refused_by_name(kind: Any, tmp_path: Path) -> None:
    policy = "MlpLstmPolicy" if kind is RecurrentPPO else "MlpPolicy"
    kind(policy, InvalidActionEnvDiscrete(), n_steps=16, device="cpu").save(tmp_path / "agent.zip")
    with pytest.raises(AgentError, match=rf"{kind.__name__}\. Supported.*crossq.*sac"):
        expand([f"agent={tmp_path}/agent.zip"])
