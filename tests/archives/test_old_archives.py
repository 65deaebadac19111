"""Archives of SB3 1.x on the old gym."""

from __future__ import annotations

import base64
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.save_util import recursive_getattr

from daft_rl.archives import load_agent
from daft_rl.errors import AgentError
from tests.archives.helpers import CASES, Spaces, assert_same, before_torch_1_6, edit, make, save

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot be read without running code"),
    pytest.mark.filterwarnings("ignore:You have specified a mini-batch size"),
]


def _age(data: dict[str, Any]) -> None:
    """Rewrite the attributes as SB3 1.3 wrote them; every pickle names a module that no longer exists."""
    gone = base64.b64encode(b"cgym.spaces.box\nBox\n.").decode()
    for key in ("observation_space", "action_space"):
        entry = data[key]
        entry[":type:"] = entry[":type:"].replace("gymnasium.", "gym.")
        entry["shape"] = entry.pop("_shape")
        for field in ("low_repr", "high_repr"):
            entry.pop(field, None)
    for entry in data.values():
        if isinstance(entry, dict) and ":serialized:" in entry:
            entry[":serialized:"] = gone
    function = {":type:": "<class 'function'>", ":serialized:": gone}
    data.update(lr_schedule=function, learning_rate=function)
    for field in ("_stats_window_size", "rollout_buffer_class", "rollout_buffer_kwargs", "normalize_advantage"):
        data.pop(field, None)
    if "clip_range" in data:
        data["clip_range"] = function
    if "target_entropy" in data:
        data["target_entropy"] = {":type:": "<class 'numpy.float32'>", ":serialized:": gone}
        data["remove_time_limit_termination"] = False
    arch = data["policy_kwargs"].get("net_arch")
    if isinstance(arch, dict):
        data["policy_kwargs"]["net_arch"] = [arch]


def _age_dict(data: dict[str, Any]) -> None:
    space = data["observation_space"]
    space["_shape"] = None
    text = space["spaces"].removeprefix("{").removesuffix("}")
    text = text.replace("'a': ", "('a', ").replace(", 'b': ", "), ('b', ").replace(", 'c': ", "), ('c', ")
    space["spaces"] = f"OrderedDict([{text})])"
    _age(data)


OLD = ["PPO mixed", "PPO image", "PPO dict", "A2C default", "SAC list", "TQC sde", "TD3 image"]


@pytest.mark.parametrize("case", OLD)
def test_archives_of_the_old_gym_load(case: str, tmp_path: Path) -> None:
    kind, kwargs = CASES[case]
    model = make(kind, **kwargs)
    path = edit(save(model, tmp_path), lambda data: _age(data) if case != "PPO mixed" else _age_dict(data))

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
