"""Small agents of every kind, and their archives, taken apart and put together again."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import nn

from daft_rl.agents import BatchNormExtractor

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float64)

IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)

MIXED = spaces.Dict({"b": spaces.Box(-1, 1, (2, 2)), "a": spaces.Discrete(4), "c": IMAGE})

ACTION = spaces.Box(np.array([-1, -2], np.float32), np.array([1, 3], np.float32))

CHOICE = spaces.Discrete(3)

ON = {"n_steps": 8, "batch_size": 4}

A2 = {"n_steps": 8}

OFF = {"buffer_size": 50, "learning_starts": 4, "batch_size": 4}

BATCHNORM = {
    "features_extractor_class": BatchNormExtractor,
    "features_extractor_kwargs": {"hidden": [5, 4], "activation": "Tanh"},
}


class Spaces(gym.Env):
    """Episodes of five random observations."""

    def __init__(self, observation_space: spaces.Space[Any] = VECTOR, action_space: spaces.Space[Any] = ACTION) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps >= 5, False, {}


def make(
    kind: Any,
    observation_space: spaces.Space[Any] = VECTOR,
    action_space: spaces.Space[Any] = ACTION,
    policy: Any = "MlpPolicy",
    **kwargs: Any,
) -> Any:
    """A small agent whose every number is random: fresh biases, statistics and targets say too little."""
    kwargs.setdefault("policy_kwargs", {"net_arch": [6]})
    kwargs["policy_kwargs"] = dict(kwargs["policy_kwargs"])  # A2C adds to it
    kwargs = {**(OFF if issubclass(kind, OffPolicyAlgorithm) else A2 if kind is A2C else ON), **kwargs}
    model = kind(policy, Spaces(observation_space, action_space), device="cpu", **kwargs)
    with torch.no_grad():
        for tensor in model.policy.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.2)
    return model


def save(model: BaseAlgorithm, folder: Path) -> Path:
    model.save(folder / "agent.zip")
    return folder / "agent.zip"


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, content: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, raw in content.items():
            archive.writestr(name, raw)
    return path


def edit(path: Path, change: Callable[[dict[str, Any]], Any], member: str = "data") -> Path:
    """Rewrite the JSON, or a file of tensors, with ``change`` applied in place."""
    content = members(path)
    buffer = io.BytesIO()
    if member == "data":
        value = json.loads(content[member])
        change(value)
        buffer.write(json.dumps(value).encode())
    else:
        value = torch.load(io.BytesIO(content[member]), weights_only=True)
        change(value)
        torch.save(value, buffer)
    return write(path, {**content, member: buffer.getvalue()})


def on_old_gym(path: Path) -> Path:
    """Rewrite the attributes as SB3 1.3 wrote them; every pickle names a module that no longer exists."""
    return edit(path, _age)


def _age(data: dict[str, Any]) -> None:
    gone = base64.b64encode(b"cgym.spaces.box\nBox\n.").decode()
    for key in ("observation_space", "action_space"):
        entry = data[key]
        if "spaces" in entry:
            _age_dict(entry)
        entry[":type:"] = entry[":type:"].replace("gymnasium.", "gym.")
        entry["shape"] = entry.pop("_shape", None)
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


def _age_dict(space: dict[str, Any]) -> None:
    space["_shape"] = None
    keys = re.sub(r"(^|, )('\w+'): ", r"\1), (\2, ", space["spaces"].removeprefix("{").removesuffix("}"))
    space["spaces"] = f"OrderedDict([{keys.removeprefix('), ')})])"


def before_torch_1_6(path: Path) -> Path:
    """Rewrite the files of tensors as PyTorch before 1.6 wrote them."""
    content = members(path)
    for name in (name for name in content if name.endswith(".pth")):
        buffer = io.BytesIO()
        value = torch.load(io.BytesIO(content[name]), weights_only=True)
        torch.save(value, buffer, _use_new_zipfile_serialization=False)
        content[name] = buffer.getvalue()
    return write(path, content)


def assert_same(model: BaseAlgorithm, loaded: BaseAlgorithm) -> None:
    assert type(loaded) is type(model)
    state = loaded.policy.state_dict()
    assert state.keys() == model.policy.state_dict().keys()
    for name, tensor in model.policy.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    for _ in range(3):
        observation = model.observation_space.sample()
        expected, _ = model.predict(observation, deterministic=True)
        assert np.array_equal(loaded.predict(observation, deterministic=True)[0], expected)


CNN = {"net_arch": [6], "features_extractor_kwargs": {"features_dim": 6}}

COMBINED = {"net_arch": [6], "features_extractor_kwargs": {"cnn_output_dim": 7}}

QUANTILES = {"net_arch": [6], "n_quantiles": 7, "n_critics": 4}

SEPARATE = {"net_arch": [], "share_features_extractor": False, **BATCHNORM}

SHARED = {"net_arch": [6], "share_features_extractor": True, **BATCHNORM}

SQUASHED = {"squash_output": True, "full_std": False}

MODEST = {"net_arch": [6], "activation_fn": nn.ReLU, "log_std_init": -1, "ortho_init": False}

ON_DICT = {"net_arch": {"pi": [7], "vf": []}, "activation_fn": nn.ELU}

OFF_DICT = {"net_arch": {"pi": [7], "qf": [5]}, "activation_fn": nn.Tanh, "n_critics": 3}

CASES: dict[str, tuple[type[BaseAlgorithm], dict[str, Any]]] = {
    "PPO default": (PPO, {"policy_kwargs": {}}),
    "PPO list": (PPO, {"policy_kwargs": {"net_arch": [7, 6]}}),
    "PPO linear": (PPO, {"policy_kwargs": {"net_arch": []}}),
    "PPO dict": (PPO, {"policy_kwargs": ON_DICT}),
    "PPO modest": (PPO, {"policy_kwargs": MODEST}),
    "PPO batchnorm": (PPO, {"policy_kwargs": SEPARATE}),
    "PPO batchnorm shared": (PPO, {"policy_kwargs": SHARED}),
    "PPO sde": (PPO, {"use_sde": True}),
    "PPO sde squashed": (PPO, {"use_sde": True, "policy_kwargs": SQUASHED}),
    "PPO discrete": (PPO, {"action_space": CHOICE}),
    "PPO multi": (PPO, {"action_space": spaces.MultiDiscrete([2, 3])}),
    "PPO binary": (PPO, {"observation_space": CHOICE, "action_space": spaces.MultiBinary(3)}),
    "PPO image": (PPO, {"observation_space": IMAGE, "policy": "CnnPolicy", "policy_kwargs": CNN}),
    "PPO flat image": (PPO, {"observation_space": IMAGE}),
    "PPO mixed": (PPO, {"observation_space": MIXED, "policy": "MultiInputPolicy", "policy_kwargs": COMBINED}),
    "A2C default": (A2C, {"policy_kwargs": {}}),
    "A2C adam": (A2C, {"use_rms_prop": False, "policy_kwargs": ON_DICT}),
    "A2C batchnorm": (A2C, {"policy_kwargs": SEPARATE}),
    "A2C sde": (A2C, {"use_sde": True}),
    "TRPO dict": (TRPO, {"policy_kwargs": ON_DICT}),
    "TRPO batchnorm": (TRPO, {"policy_kwargs": SEPARATE}),
    "TRPO discrete": (TRPO, {"action_space": CHOICE}),
    "MaskablePPO": (MaskablePPO, {"action_space": CHOICE}),
    "SAC sde": (SAC, {"use_sde": True}),
    "SAC sde unclipped": (SAC, {"use_sde": True, "policy_kwargs": {"net_arch": [6], "clip_mean": 0.0}}),
    "SAC entropy": (SAC, {"ent_coef": 0.3}),
    "SAC image": (SAC, {"observation_space": IMAGE, "policy": "CnnPolicy", "policy_kwargs": CNN}),
    "SAC mixed": (SAC, {"observation_space": MIXED, "policy": "MultiInputPolicy", "policy_kwargs": COMBINED}),
    "TD3 image": (TD3, {"observation_space": IMAGE, "policy": "CnnPolicy", "policy_kwargs": CNN}),
    "TQC sde": (TQC, {"use_sde": True, "policy_kwargs": QUANTILES}),
    "TQC quantiles": (TQC, {"policy_kwargs": QUANTILES}),
    "CrossQ sde": (CrossQ, {"use_sde": True}),
    "CrossQ plain": (CrossQ, {"policy_kwargs": {"net_arch": [6], "batch_norm": False}}),
    "DQN": (DQN, {"action_space": CHOICE}),
    "DQN batchnorm": (DQN, {"action_space": CHOICE, "policy_kwargs": {"net_arch": [6], **BATCHNORM}}),
    "DQN image": (DQN, {"observation_space": IMAGE, "action_space": CHOICE, "policy": "CnnPolicy"}),
    "QRDQN": (QRDQN, {"action_space": CHOICE, "policy_kwargs": {"net_arch": [6], "n_quantiles": 5}}),
}

for _kind in (SAC, TD3, DDPG, TQC, CrossQ):
    CASES[f"{_kind.__name__} list"] = (_kind, {"policy_kwargs": {"net_arch": [7, 6]}})
    CASES[f"{_kind.__name__} dict"] = (_kind, {"policy_kwargs": OFF_DICT})
    CASES[f"{_kind.__name__} batchnorm"] = (_kind, {"policy_kwargs": {"net_arch": [6], **BATCHNORM}})
    CASES[f"{_kind.__name__} batchnorm shared"] = (_kind, {"policy_kwargs": SHARED})


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)
