"""Agents saved by SB3 come back bit-equal; nothing in their files is executed; damage is one clear error."""

from __future__ import annotations

import base64
import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from daft_rl.agents.extractors import BatchNormExtractor
from daft_rl.archives.load import apply_vecnormalize, load_agent, read_archive, read_vecnormalize
from daft_rl.archives.text import read_space
from daft_rl.errors import AgentError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot be read without running code"),
    pytest.mark.filterwarnings("ignore:You have specified a mini-batch size"),
]

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

    def __init__(self, observation_space: spaces.Space = VECTOR, action_space: spaces.Space = ACTION) -> None:
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
    kind: type[BaseAlgorithm],
    observation_space: spaces.Space = VECTOR,
    action_space: spaces.Space = ACTION,
    policy: str = "MlpPolicy",
    **kwargs: Any,
) -> BaseAlgorithm:
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


@pytest.mark.parametrize("case", CASES)
def test_predictions_are_bit_equal(case: str, tmp_path: Path) -> None:
    kind, kwargs = CASES[case]
    model = make(kind, **kwargs)
    path = save(model, tmp_path)
    assert_same(model, load_agent(path, device="cpu"))
    loaded = load_agent(path, env=Spaces(model.observation_space, model.action_space), device="cpu")
    assert_same(model, loaded)
    assert loaded.policy.optimizer_class is model.policy.optimizer_class
    assert loaded.policy.optimizer_kwargs == model.policy.optimizer_kwargs
    for name in ("gamma", "n_steps", "batch_size", "ent_coef", "tau", "buffer_size", "use_sde", "learning_rate"):
        assert getattr(loaded, name, None) == getattr(model, name, None), name
    loaded.save(tmp_path / "again.zip")  # and our result is an ordinary archive
    assert_same(model, kind.load(tmp_path / "again.zip", device="cpu"))


@pytest.mark.parametrize("kind", [PPO, A2C, TRPO, SAC, TD3, DDPG, TQC, CrossQ, DQN, QRDQN])
def test_learning_goes_on(kind: type[BaseAlgorithm], tmp_path: Path) -> None:
    action_space = CHOICE if kind in (DQN, QRDQN) else ACTION
    model = make(kind, action_space=action_space).learn(16)
    path = save(model, tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*state of .* is not loaded.*")
        loaded = load_agent(path, env=Spaces(action_space=action_space), device="cpu")
    assert loaded.num_timesteps == model.num_timesteps == 16
    for name in model._get_torch_save_params()[0]:
        if name.endswith("optimizer"):
            expected, got = recursive_getattr(model, name).state_dict(), recursive_getattr(loaded, name).state_dict()
            assert str(got) == str(expected)
            assert got["state"], name
    for name in model._get_torch_save_params()[1]:
        assert torch.equal(recursive_getattr(loaded, name), recursive_getattr(model, name))
    before = {name: tensor.clone() for name, tensor in loaded.policy.state_dict().items()}
    loaded.learn(16, reset_num_timesteps=False)
    assert loaded.num_timesteps == 32
    assert any(not torch.equal(tensor, before[name]) for name, tensor in loaded.policy.state_dict().items())


# --- hyperparameters


def test_overrides_win_and_stored_values_hold(tmp_path: Path) -> None:
    path = save(make(PPO, gamma=0.9, vf_coef=0.3, tensorboard_log="/nowhere", seed=5), tmp_path)
    model = load_agent(path, env=Spaces(), device="cpu", gamma=0.8, learning_rate=1e-5)
    assert (model.gamma, model.vf_coef, model.n_steps) == (0.8, 0.3, 8)
    assert model.policy.optimizer.param_groups[0]["lr"] == 1e-5
    assert model.seed is None
    assert model.tensorboard_log is None


def test_schedules_and_noise_are_read_from_their_text(tmp_path: Path) -> None:
    noise = NormalActionNoise(np.array([0.0, 0.5]), np.array([0.1, 0.2]))
    path = save(make(TD3, action_noise=noise, learning_rate=LinearSchedule(1e-2, 1e-3, 0.5)), tmp_path)
    model = load_agent(path, device="cpu")
    assert repr(model.action_noise) == repr(noise)
    assert [model.lr_schedule(progress) for progress in (1, 0)] == [1e-2, 1e-3]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = save(make(PPO, clip_range=lambda progress: 0.1 * progress), tmp_path)
    with pytest.warns(UserWarning, match=r"clip_range=0\.2 for a pickled .*clip_range=\.\.\."):
        model = load_agent(path, device="cpu")
    assert model.clip_range(1) == 0.2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_agent(path, device="cpu", clip_range=0.3).clip_range(1) == 0.3


def test_unknown_hyperparameter(tmp_path: Path) -> None:
    path = save(make(PPO), tmp_path)
    with pytest.raises(AgentError, match=r"PPO has no hyperparameter 'learnin_rate'.*'learning_rate'"):
        load_agent(path, learnin_rate=0.1)


def test_replay_buffer_only_where_it_is_needed(tmp_path: Path) -> None:
    path = save(make(SAC), tmp_path)
    model = load_agent(path, device="cpu")
    assert (model.replay_buffer, model.buffer_size) == (None, 50)
    assert load_agent(path, env=Spaces(), device="cpu").replay_buffer.buffer_size == 50
    assert load_agent(path, env=Spaces(), device="cpu", buffer_size=7).replay_buffer.buffer_size == 7
    assert load_agent(path, device="cpu", buffer_size=7).replay_buffer.buffer_size == 7


def test_optimizer_state_that_does_not_fit_starts_fresh(tmp_path: Path) -> None:
    path = save(make(PPO).learn(8), tmp_path)

    def spoil(saved: dict[str, Any]) -> None:
        saved["state"][0]["exp_avg"][0] = float("nan")

    edit(path, spoil, "policy.optimizer.pth")
    with pytest.warns(UserWarning, match=r"policy\.optimizer is not loaded.*NaN"):
        assert not load_agent(path, device="cpu").policy.optimizer.state
    content = members(path)
    del content["policy.optimizer.pth"]
    write(path, content)
    with pytest.warns(UserWarning, match="the archive has none"):
        load_agent(path, device="cpu")


def test_entropy_coefficient(tmp_path: Path) -> None:
    model = make(SAC)
    model.log_ent_coef.data.fill_(-2.5)
    path = save(model, tmp_path)
    assert load_agent(path, device="cpu").log_ent_coef.item() == -2.5
    content = members(path)
    del content["pytorch_variables.pth"]
    write(path, content)
    with pytest.raises(AgentError, match=r"log_ent_coef.*Pass ent_coef="):
        load_agent(path, device="cpu")
    assert load_agent(path, device="cpu", ent_coef=0.1).ent_coef_tensor == pytest.approx(0.1)


# --- which agent it is


class MyPPO(PPO):
    pass


def test_algorithm_is_checked(tmp_path: Path) -> None:
    path = save(make(PPO), tmp_path)
    assert type(load_agent(path, algo=MyPPO)) is MyPPO
    assert type(load_agent(str(path.with_suffix("")), algo="PPO")) is PPO
    for algo in ("SAC", A2C):
        with pytest.raises(AgentError, match=r"an agent of PPO, not of (SAC|A2C)"):
            load_agent(path, algo=algo)
    with pytest.raises(AgentError, match=r"'DREAMER' is not supported.*PPO, A2C"):
        load_agent(path, algo="DREAMER")
    td3 = save(make(TD3), tmp_path)
    with pytest.raises(AgentError, match="an agent of TD3, not of DDPG"):
        load_agent(td3, algo=DDPG)


@pytest.mark.parametrize(("kind", "policy"), [(RecurrentPPO, "MlpLstmPolicy"), (ARS, "MlpPolicy")])
def test_unsupported_algorithms_name_what_is(kind: type[BaseAlgorithm], policy: str, tmp_path: Path) -> None:
    model = kind(policy, Spaces(), device="cpu")
    with pytest.raises(AgentError, match=rf"an agent of {kind.__name__}.*Supported: PPO, A2C, TRPO, SAC"):
        load_agent(save(model, tmp_path))


def test_contents(tmp_path: Path) -> None:
    contents = read_archive(save(make(TQC, gamma=0.9), tmp_path))
    assert contents.algorithm == "TQC"
    assert contents.hyperparameters["gamma"] == 0.9
    assert set(contents.unreadable) == {"train_freq"}
    assert contents.observation_space == VECTOR
    assert contents.action_space == ACTION
    assert contents.policy_kwargs == {"net_arch": [6], "use_sde": False}
    assert set(contents.state_dicts) == {"policy", "actor.optimizer", "critic.optimizer", "ent_coef_optimizer"}
    assert contents.variables.keys() == {"log_ent_coef"}
    assert contents.sb3_version.startswith("2.")
    assert not any(":serialized:" in str(value) for value in contents.description.values())


class MyActivation(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


class MyExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Space, width: int = 4) -> None:
        super().__init__(observation_space, width)
        self.layer = nn.Linear(3, width)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layer(observations)


def test_unreadable_activation_is_asked_for(tmp_path: Path) -> None:
    model = make(PPO, policy_kwargs={"net_arch": [6], "activation_fn": MyActivation})
    path = save(model, tmp_path)
    with pytest.raises(AgentError, match=r"activation='ReLU' \(agent\.activation=relu"):
        load_agent(path)
    assert_same(model, load_agent(path, activation=MyActivation))
    assert isinstance(load_agent(path, activation="tanh").policy.mlp_extractor.policy_net[1], nn.Tanh)
    with pytest.raises(AgentError, match="Unknown activation 'sine'"):
        load_agent(path, activation="sine")


def test_unreadable_extractor_is_asked_for(tmp_path: Path) -> None:
    kwargs = {"features_extractor_class": MyExtractor, "features_extractor_kwargs": {"width": 5}}
    model = make(SAC, policy_kwargs={"net_arch": [6], **kwargs})
    path = save(model, tmp_path)
    with pytest.raises(AgentError, match=r"features_extractor_class.*MyExtractor.*NatureCNN.*Pass policy_kwargs="):
        load_agent(path)
    assert_same(model, load_agent(path, policy_kwargs={"features_extractor_class": MyExtractor}))
    with pytest.raises(AgentError, match=r"tensors do not fit.*features_extractor\.layer.*Pass policy_kwargs="):
        load_agent(path, policy_kwargs={"features_extractor_class": MyExtractor, "features_extractor_kwargs": {}})


class MyPolicy(PPO.policy_aliases["MlpPolicy"]):  # type: ignore[name-defined, misc]
    pass


def test_policy_of_others_is_asked_for(tmp_path: Path) -> None:
    model = make(PPO, policy=MyPolicy)
    path = save(model, tmp_path)
    with pytest.raises(AgentError, match=r"which is not SB3's\. Pass it as policy="):
        load_agent(path)
    loaded = load_agent(path, policy=MyPolicy)
    assert type(loaded.policy) is MyPolicy
    assert_same(model, loaded)


def test_trust_uses_sb3_and_says_so(tmp_path: Path) -> None:
    model = make(PPO, policy_kwargs={"net_arch": [6], "activation_fn": MyActivation})
    path = save(model, tmp_path)
    with pytest.warns(UserWarning, match="executes whatever code"):
        loaded = load_agent(path, trust=True, env=Spaces(), gamma=0.5)
    assert_same(model, loaded)
    assert loaded.gamma == 0.5
    edit(path, lambda data: data["policy_kwargs"].update({":serialized:": "AAAA"}))
    with pytest.warns(UserWarning, match="executes"), pytest.raises(AgentError, match="cannot be loaded by SB3"):
        load_agent(path, trust=True)


def test_trust_reads_what_is_older_than_safe_reading(tmp_path: Path) -> None:
    model = make(PPO)
    path = save(model, tmp_path)
    content = members(path)
    buffer = io.BytesIO()
    torch.save(model.policy.state_dict(), buffer, _use_new_zipfile_serialization=False)  # PyTorch before 1.6
    write(path, {**content, "policy.pth": buffer.getvalue()})
    with pytest.raises(AgentError, match=r"older than 1\.6.*trust=True"):
        load_agent(path)
    with pytest.raises(AgentError, match=r"With algo="):
        load_agent(path, trust=True)
    with pytest.warns(UserWarning, match="executes"):
        assert_same(model, load_agent(path, trust=True, algo="PPO"))


# --- spaces


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
    with pytest.raises(AgentError, match="gymnasium environment or a VecEnv"):
        load_agent(path, env="HalfCheetah-v5")
    bounded = Spaces(spaces.Box(-5, 5, (3,), np.float32))  # bounds of observations mean nothing to the policy
    assert load_agent(path, env=bounded).get_env().num_envs == 1
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


def test_spaces_that_numpy_did_not_print_come_from_the_environment(tmp_path: Path) -> None:
    wide = spaces.Box(-np.arange(1.0, 1203.0), np.inf, (1202,), np.float64)
    model = make(PPO, wide)
    path = save(model, tmp_path)
    with pytest.raises(AgentError, match=r"does not tell its observation space.*Pass env="):
        load_agent(path)
    assert_same(model, load_agent(path, env=Spaces(wide)))
    with pytest.raises(AgentError, match=r"takes 1202 inputs.*\(1203,\)"):
        load_agent(path, env=Spaces(spaces.Box(-1, 1, (1203,))))


@pytest.mark.parametrize(
    ("entry", "space"),
    [
        (
            {":type:": "<class 'gym.spaces.box.Box'>", "dtype": "float64", "shape": [2], "low": "[-inf -1.5]",
             "high": "[1.e+00\n   inf]"},
            spaces.Box(np.array([-np.inf, -1.5]), np.array([1, np.inf]), dtype=np.float64),
        ),
        (
            {":type:": "<class 'gym.spaces.box.Box'>", "dtype": "uint8", "shape": [40, 40, 1],
             "low": "[[[0]\n  [0]\n  ...\n  [0]]]", "high": "[[[255]\n  ...\n  [255]]]"},
            spaces.Box(0, 255, (40, 40, 1), np.uint8),
        ),
        ({":type:": "<class 'gym.spaces.discrete.Discrete'>", "n": 4}, spaces.Discrete(4)),
        ({":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", "n": "4", "start": "0"}, spaces.Discrete(4)),
        (
            {":type:": "<class 'gym.spaces.multi_discrete.MultiDiscrete'>", "nvec": "[3 2]"},
            spaces.MultiDiscrete([3, 2]),
        ),
        ({":type:": "<class 'gym.spaces.multi_binary.MultiBinary'>", "n": 4}, spaces.MultiBinary(4)),
        (
            {":type:": "<class 'gym.spaces.dict.Dict'>",
             "spaces": "OrderedDict([('b c', Box([-1.  0.], [1. 1.], (2,), float32)), ('a', Discrete(3))])"},
            spaces.Dict({"b c": spaces.Box(np.array([-1, 0], np.float32), 1, (2,)), "a": spaces.Discrete(3)},
                        sort_keys=False),
        ),
    ],
)  # fmt: skip
def test_descriptions_of_spaces(entry: dict[str, Any], space: spaces.Space) -> None:
    assert read_space(entry) == space


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "<class 'gymnasium.spaces.box.Box'>",
        {":type:": "<class 'os.system'>"},
        {":type:": "<class 'gym.spaces.tuple.Tuple'>", "spaces": "()"},
        {":type:": "<class 'gym.spaces.box.Box'>", "dtype": "float32", "shape": [10**9], "low": "0", "high": "1"},
        {":type:": "<class 'gym.spaces.box.Box'>", "dtype": "object", "shape": [1], "low": "[0]", "high": "[1]"},
        {":type:": "<class 'gym.spaces.box.Box'>", "dtype": "float32", "shape": [3], "low": "[0 ... 1]", "high": "1"},
        {":type:": "<class 'gym.spaces.discrete.Discrete'>", "n": "__import__('os').system('true')"},
        {":type:": "<class 'gym.spaces.dict.Dict'>", "spaces": "__import__('os').system('true')"},
        {":type:": "<class 'gym.spaces.box.Box'>", "dtype": "float32", "shape": [1], "low": "[nan]", "high": "[1]"},
        *(
            {":type:": "<class 'gym.spaces.dict.Dict'>", "spaces": text * 100_000 + "1"}
            for text in ("(", "-", "1+", "a.", "not ", "'", "'\\'", "{'a':", "Dict(", "\n ", "1 ")
        ),
    ],
)
def test_descriptions_that_are_none(entry: Any) -> None:
    assert isinstance(read_space(entry), str)


# --- archives of SB3 1.x on the old gym


def _age(data: dict[str, Any]) -> None:
    """Rewrite a description as SB3 1.3 wrote it; every pickle names a module that is gone."""
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


OLD = ["PPO mixed", "PPO image", "PPO dict", "A2C default", "SAC list", "TQC sde", "TD3 image"]


@pytest.mark.parametrize("case", OLD)
def test_archives_of_the_old_gym(case: str, tmp_path: Path) -> None:
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


def _age_dict(data: dict[str, Any]) -> None:
    space = data["observation_space"]
    space["_shape"] = None
    text = space["spaces"].removeprefix("{").removesuffix("}")
    text = text.replace("'a': ", "('a', ").replace(", 'b': ", "), ('b', ").replace(", 'c': ", "), ('c', ")
    space["spaces"] = f"OrderedDict([{text})])"
    _age(data)


def test_layers_shared_before_1_8_are_explained(tmp_path: Path) -> None:
    path = save(make(PPO), tmp_path)
    edit(path, lambda state: state.update({"mlp_extractor.shared_net.0.weight": torch.ones(3, 3)}), "policy.pth")
    with pytest.raises(AgentError, match=r"shared_net.*SB3 dropped in 1\.8"):
        load_agent(path)


# --- hostile files


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("kind", [PPO, SAC])
def test_pickles_in_the_description_do_not_run(kind: type[BaseAlgorithm], tmp_path: Path) -> None:
    model = make(kind, learning_rate=lambda progress: 1e-3)
    path, marker = save(model, tmp_path), tmp_path / "ran"
    blob = base64.b64encode(pickle.dumps(Payload(marker))).decode()

    def poison(data: dict[str, Any]) -> None:
        for key, value in data.items():
            data[key] = {**value, ":serialized:": blob} if isinstance(value, dict) else value
        data["replay"] = {":type:": "<class 'x'>", ":serialized:": blob}

    edit(path, poison)
    assert_same(model, load_agent(path, device="cpu"))
    assert_same(model, load_agent(path, env=Spaces(), device="cpu"))
    read_archive(path)
    assert not marker.exists()
    with pytest.warns(UserWarning, match="executes"), pytest.raises(AgentError):
        load_agent(path, trust=True)
    assert marker.exists(), "the payload would have worked"


@pytest.mark.parametrize(
    "member", ["policy.pth", "actor.optimizer.pth", "pytorch_variables.pth", "tensors.pth", "extra.pth"]
)
@pytest.mark.parametrize("form", ["pickle", "torch", "legacy"])
def test_pickles_among_the_tensors_do_not_run(member: str, form: str, tmp_path: Path) -> None:
    path, marker = save(make(SAC), tmp_path), tmp_path / "ran"
    buffer = io.BytesIO()
    if form == "pickle":
        pickle.dump(Payload(marker), buffer)
    else:
        torch.save({"a": Payload(marker)}, buffer, _use_new_zipfile_serialization=form == "torch")
    write(path, {**members(path), member: buffer.getvalue()})
    with pytest.raises(AgentError, match=rf"{member}.*trust=True"):
        load_agent(path)
    assert not marker.exists()


def _replace(member: str, raw: bytes) -> Callable[[Path], Any]:
    return lambda path: write(path, {**members(path), member: raw})


def _without(member: str) -> Callable[[Path], Any]:
    return lambda path: write(path, {name: raw for name, raw in members(path).items() if name != member})


def _tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[Path], Any]:
    def spoil(state: dict[str, Any]) -> None:
        value = change(state.pop(name))
        if value is not None:
            state[name] = value

    return lambda path: edit(path, spoil, "policy.pth")


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def _truncate_member(path: Path) -> None:
    content = members(path)
    write(path, {**content, "policy.pth": content["policy.pth"][:-600]})


def _truncate_tensor(path: Path) -> None:
    """A tensor whose bytes end early inside a sound zip: reading on would leave its memory."""
    content = members(path)
    inner = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content["policy.pth"])) as old, zipfile.ZipFile(inner, "w") as new:
        for name in old.namelist():
            raw = old.read(name)
            new.writestr(name, raw[:4] if name.endswith("data/1") else raw)
    write(path, {**content, "policy.pth": inner.getvalue()})


def _compress_tensors(path: Path) -> None:
    content = members(path)
    inner = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content["policy.pth"])) as old,
        zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    write(path, {**content, "policy.pth": inner.getvalue()})


def _duplicate(path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("policy.pth", b"")


def _lie_about_size(path: Path) -> None:
    """The directory claims 4 GB for a member of a few bytes."""
    raw = bytearray(path.read_bytes())
    entry = raw.rindex(b"PK\x01\x02", 0, raw.rindex(b"policy.pth"))
    raw[entry + 24 : entry + 28] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(raw)


def _encrypt(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    directory = int.from_bytes(raw[-6:-2], "little")  # the first bytes "PK.." of one may be a tensor's
    raw[directory + 8] |= 1
    path.write_bytes(raw)


WEIGHT = "mlp_extractor.policy_net.0.weight"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (_bytes(lambda raw: b""), "cannot be read as an archive"),
    "text": (_bytes(lambda raw: b"not a zip" * 99), "cannot be read as an archive"),
    "cut": (_bytes(lambda raw: raw[: len(raw) // 2]), "cannot be read as an archive"),
    "flipped": (_bytes(lambda raw: raw.replace(b"policy_kwargs", b"policy_kwarks")), "Bad CRC"),
    "no data": (_without("data"), "has no 'data'"),
    "no weights": (_without("policy.pth"), "has no 'policy.pth'"),
    "json": (_replace("data", b'{"a": '), "JSON in 'data' is damaged"),
    "deep json": (_replace("data", b'{"a":' * 100_000), "JSON in 'data' is damaged"),
    "list": (_replace("data", b"[1, 2]"), "should be a JSON object"),
    "empty json": (_replace("data", b"{}"), "not recognizable as an agent"),
    "binary json": (_replace("data", b"\xff\xfe\x00"), "JSON in 'data' is damaged"),
    "no spaces": (lambda path: edit(path, lambda data: data.pop("action_space")), "does not tell its action space"),
    "no policy_kwargs": (lambda path: edit(path, lambda data: data.pop("policy_kwargs")), "Pass policy_kwargs="),
    "odd policy_kwargs": (
        lambda path: edit(path, lambda data: data["policy_kwargs"].update(log_std_init="big")),
        r"log_std_init='big'.*a float",
    ),
    "unknown policy_kwargs": (
        lambda path: edit(path, lambda data: data["policy_kwargs"].update(magic=1)),
        r"magic='1'.*Pass policy_kwargs=\{'magic'",
    ),
    "other space": (
        lambda path: edit(path, lambda data: data["observation_space"].update(_shape=[1], low="[0.]", high="[1.]")),
        "takes 3 inputs",
    ),
    "truncated member": (_truncate_member, "policy.pth' is damaged"),
    "truncated tensor": (_truncate_tensor, "policy.pth' is damaged"),
    "compressed tensors": (_compress_tensors, "is compressed"),
    "a list of tensors": (_replace("policy.pth", b"PK\x05\x06" + bytes(18)), "policy.pth' is damaged"),
    "nan": (_tensor(WEIGHT, lambda tensor: tensor * float("nan")), "NaN or infinite"),
    "inf": (_tensor(WEIGHT, lambda tensor: tensor / 0), "NaN or infinite"),
    "huge view": (_tensor(WEIGHT, lambda tensor: torch.ones(1).expand(10**13)), "too few numbers"),
    "complex": (_tensor(WEIGHT, lambda tensor: tensor.to(torch.complex64)), "dense real tensor"),
    "sparse": (_tensor(WEIGHT, lambda tensor: tensor.to_sparse()), "dense real tensor|damaged"),
    "integers": (_tensor("log_std", lambda tensor: tensor.long()), "'log_std' is .*int64"),
    "missing tensor": (_tensor("value_net.bias", lambda tensor: None), "'value_net.bias' is missing"),
    "other shape": (_tensor("log_std", lambda tensor: tensor[:1]), r"'log_std' is \(1,\).*\(2,\)"),
    "other width": (_tensor(WEIGHT, lambda tensor: tensor[:, :2]), "takes 2 inputs"),
    "no layers": (_tensor("action_net.weight", lambda tensor: tensor[0]), "takes 3 inputs and gives 6 outputs"),
    "extra tensor": (
        lambda path: edit(path, lambda state: state.update(trap=torch.ones(1)), "policy.pth"),
        "'trap' is not expected",
    ),
    "text among tensors": (
        lambda path: edit(path, lambda state: state.update(trap="text"), "policy.pth"),
        "should be a tensor, got str",
    ),
    "bomb": (lambda path: write(path, {**members(path), "x": bytes(10**7)}, zipfile.ZIP_DEFLATED), "zip bomb"),
    "many members": (
        lambda path: write(path, {**members(path), **{str(index): b"" for index in range(300)}}),
        "at most 256 members",
    ),
    "claimed size": (_lie_about_size, "zip bomb|bytes unpacked"),
    "parent folder": (_replace("../../evil.pth", b""), "points outside"),
    "absolute": (_replace("/etc/evil.pth", b""), "points outside"),
    "windows": (_replace("C:\\evil.pth", b""), "points outside"),
    "twice": (_duplicate, "two members are called 'policy.pth'"),
    "encrypted": (_encrypt, "is encrypted"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save(make(PPO), tmp_path_factory.mktemp("sound")).read_bytes()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_clear_error(damage: str, sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    path.write_bytes(sound)
    spoil, match = DAMAGE[damage]
    spoil(path)
    with pytest.raises(AgentError, match=match):
        load_agent(path, device="cpu")
    assert [file.name for file in tmp_path.iterdir()] == ["agent.zip"]


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.zip", tmp_path, "bad\0name"):
        with pytest.raises(AgentError):
            load_agent(path)


# --- VecNormalize


def _normalizer(space: spaces.Space = VECTOR, **kwargs: Any) -> VecNormalize:
    venv = VecNormalize(DummyVecEnv([lambda: Spaces(space)] * 2), gamma=0.9, clip_obs=5.0, **kwargs)
    venv.reset()
    for _ in range(8):
        venv.step(np.zeros((2, 2)))
    return venv


BOXES = spaces.Dict({"a": VECTOR, "b": spaces.Box(-1, 1, (2, 2))})


@pytest.mark.parametrize(
    ("space", "kwargs"),
    [(VECTOR, {}), (VECTOR, {"norm_obs": False}), (BOXES, {"norm_reward": False}), (BOXES, {"norm_obs_keys": ["b"]})],
)
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_statistics_are_what_sb3_reads(
    space: spaces.Space, kwargs: dict[str, Any], protocol: int, tmp_path: Path
) -> None:
    original = _normalizer(space, **kwargs)
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(pickle.dumps(original, protocol=protocol))
    wrapped = apply_vecnormalize(DummyVecEnv([lambda: Spaces(space)] * 3), read_vecnormalize(path))
    assert (wrapped.training, wrapped.num_envs) == (False, 3)
    for name in ("norm_obs", "norm_reward", "norm_obs_keys", "epsilon", "clip_obs", "clip_reward", "gamma"):
        assert getattr(wrapped, name) == getattr(original, name), name
    observation = space.sample()
    expected, got = original.normalize_obs(observation), wrapped.normalize_obs(observation)
    for key in space.spaces if isinstance(space, spaces.Dict) else [...]:
        assert np.array_equal(got[key], expected[key])  # type: ignore[index, call-overload]
    reward = np.array([0.3])
    assert np.array_equal(wrapped.normalize_reward(reward), original.normalize_reward(reward))
    assert wrapped.ret_rms.count == original.ret_rms.count


@pytest.mark.parametrize(
    ("archive", "file"),
    [
        ("agent.zip", "vecnormalize.pkl"),
        ("agent.zip", "vec_normalize.pkl"),
        ("agent.zip", "agent_vecnormalize.pkl"),
        ("agent.zip", "agent/vecnormalize.pkl"),
        ("rl_model_1000_steps.zip", "rl_model_vecnormalize_1000_steps.pkl"),
    ],
)
def test_statistics_beside_the_archive_are_applied_and_frozen(archive: str, file: str, tmp_path: Path) -> None:
    path = save(make(PPO), tmp_path).rename(tmp_path / archive)
    original = _normalizer()
    (tmp_path / file).parent.mkdir(exist_ok=True)
    original.save(str(tmp_path / file))
    model = load_agent(path, env=Spaces(), device="cpu")
    normalizer = model.get_vec_normalize_env()
    assert normalizer is not None
    assert not normalizer.training
    model.learn(16)
    assert np.array_equal(normalizer.obs_rms.mean, original.obs_rms.mean)
    assert normalizer.ret_rms.count == original.ret_rms.count
    with pytest.warns(UserWarning, match="expects observations normalized"):
        load_agent(path, device="cpu")
    own = VecNormalize(DummyVecEnv([Spaces]))
    assert load_agent(path, env=own, device="cpu").get_vec_normalize_env() is own


def test_statistics_of_other_shapes(tmp_path: Path) -> None:
    path = save(make(PPO), tmp_path)
    _normalizer(spaces.Box(-1, 1, (4,))).save(str(tmp_path / "vecnormalize.pkl"))
    with pytest.raises(AgentError, match=r"shape \(4,\).*gives \(3,\)"):
        load_agent(path, env=Spaces())
    statistics = read_vecnormalize(tmp_path / "vecnormalize.pkl")
    with pytest.raises(AgentError, match=r"\(4,\).*'a': \(3,\)"):
        apply_vecnormalize(DummyVecEnv([lambda: Spaces(BOXES)]), statistics)


def test_statistics_of_the_old_gym_and_numpy(tmp_path: Path) -> None:
    original = _normalizer()
    original.observation_space = spaces.Box(-1, 1, (3,), seed=3)  # with the state of a generator
    raw = pickle.dumps(original, protocol=3)  # names stand as text lines
    assert b"cgymnasium.spaces" in raw
    raw = raw.replace(b"cgymnasium.spaces", b"cgym.spaces")
    for old, new in ((b"cnumpy._core.", b"cnumpy.core."), (b"cnumpy.core.", b"cnumpy._core.")):  # before 2, since 2
        (tmp_path / "old.pkl").write_bytes(raw.replace(old, new))
        statistics = read_vecnormalize(tmp_path / "old.pkl")
        assert np.array_equal(statistics.obs.mean, original.obs_rms.mean)  # type: ignore[union-attr]


@pytest.mark.parametrize("place", ["whole", "unused", "mean"])
def test_pickles_in_the_statistics_do_not_run(place: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    original: Any = _normalizer()
    if place == "unused":
        original.old_reward = Payload(marker)
    elif place == "mean":
        original.obs_rms.mean = Payload(marker)
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(pickle.dumps(Payload(marker) if place == "whole" else original))
    with pytest.raises(AgentError, match=r"it names 'pathlib.*hostile"):
        read_vecnormalize(path)
    agent = save(make(PPO), tmp_path)
    with pytest.raises(AgentError, match="it names 'pathlib"):
        load_agent(agent, env=Spaces())
    assert not marker.exists()


def _spoiled(change: Callable[[Any], None]) -> bytes:
    original = _normalizer()
    change(original)
    return pickle.dumps(original)


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (lambda: b"", "damaged"),
        (lambda: pickle.dumps(_normalizer())[:-300], "damaged"),
        (lambda: pickle.dumps({"obs_rms": 1}), "expected a .VecNormalize, found dict"),
        (lambda: _spoiled(lambda venv: venv.obs_rms.mean.fill(np.nan)), "no finite statistics"),
        (lambda: _spoiled(lambda venv: venv.obs_rms.var.fill(-1)), "no finite statistics"),
        (lambda: _spoiled(lambda venv: setattr(venv.obs_rms, "mean", np.array([None, "x"], object))), "list, not of"),
        (lambda: _spoiled(lambda venv: setattr(venv, "epsilon", float("inf"))), "finite and positive"),
        (lambda: _spoiled(lambda venv: setattr(venv, "clip_obs", "wide")), "expected"),
        (lambda: b"\x80\x04Nr\xff\xff\xff\x7f.", "numbers an object"),
        (lambda: b"\x80\x04\x82\x01.", "registry of pickle extensions"),
        (lambda: b"\x80\x04\x8c\x01xQ.", "objects outside"),
    ],
)  # fmt: skip
def test_damaged_statistics(raw: Callable[[], bytes], match: str, tmp_path: Path) -> None:
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(raw())
    with pytest.raises(AgentError, match=f"(?s)vecnormalize.pkl cannot be used.*({match})"):
        read_vecnormalize(path)


def test_no_statistics(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="No VecNormalize file"):
        read_vecnormalize(tmp_path / "vecnormalize.pkl")
