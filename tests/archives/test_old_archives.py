"""Archives of SB3 1.x on the old gym."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.save_util import recursive_getattr

from daft_rl.archives import load_agent
from daft_rl.errors import AgentError
from tests.archives.helpers import CASES, Spaces, assert_same, before_torch_1_6, edit, make, on_old_gym, save

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot be read without running code"),
    pytest.mark.filterwarnings("ignore:You have specified a mini-batch size"),
]


OLD = ["PPO mixed", "PPO image", "PPO dict", "A2C default", "SAC list", "TQC sde", "TD3 image"]


@pytest.mark.parametrize("case", OLD)
def test_archives_of_the_old_gym_load(case: str, tmp_path: Path) -> None:
    kind, kwargs = CASES[case]
    model = make(kind, **kwargs)
    path = on_old_gym(save(model, tmp_path))

    def before_1_7(state: dict[str, Any]) -> None:
        for key in [key for key in state if key.startswith(("pi_features_extractor", "vf_features_extractor"))]:
            del state[key]

    edit(path, before_1_7, "policy.pth")
    with pytest.raises(ModuleNotFoundError):
        kind.load(path)
    assert_same(model, load_agent(path, device="cpu"))
    assert_same(model, load_agent(path, env=Spaces(model.observation_space, model.action_space), device="cpu"))


@pytest.mark.parametrize("case", ["PPO default", "A2C default", "SAC list", "TD3 image", "TQC quantiles", "DQN"])
def test_tensors_of_pytorch_before_1_6_are_read(case: str, tmp_path: Path) -> None:
    kind, kwargs = CASES[case]
    model = make(kind, **kwargs).learn(16)
    path = before_torch_1_6(save(model, tmp_path))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*state of .* is not loaded.*")
        loaded = load_agent(path, env=Spaces(model.observation_space, model.action_space), device="cpu")
    assert_same(model, loaded)
    for name in model._get_torch_save_params()[0]:
        if name.endswith("optimizer"):
            expected, got = recursive_getattr(model, name).state_dict(), recursive_getattr(loaded, name).state_dict()
            assert str(got) == str(expected)


def test_layers_shared_before_1_8_are_explained(tmp_path: Path) -> None:
    path = save(make(PPO), tmp_path)
    edit(path, lambda state: state.update({"mlp_extractor.shared_net.0.weight": torch.ones(3, 3)}), "policy.pth")
    with pytest.raises(AgentError, match=r"shared_net.*SB3 dropped in 1\.8"):
        load_agent(path)
