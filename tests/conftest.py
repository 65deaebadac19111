"""Small agents for every algorithm, and how to play with them."""

from __future__ import annotations

import fcntl
import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from daft_rl.agents import BatchNormExtractor
from daft_rl.batchnorm import batchnorm_layers
from daft_rl.envs.registry import register_task, task_names
from tests import invocations

for _number, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        # behind nohup, or in the background of a shell script, a run leaves these signals ignored; tests send them
        signal.signal(_number, _default)

torch.set_num_threads(1)

EXTRACTOR = {"features_extractor_class": BatchNormExtractor, "features_extractor_kwargs": {"hidden": [16]}}
ON_POLICY: dict[str, type[Any]] = {"PPO": PPO, "A2C": A2C, "TRPO": TRPO}
OFF_POLICY: dict[str, type[Any]] = {
    "SAC": SAC, "TD3": TD3, "DDPG": DDPG, "TQC": TQC, "CrossQ": CrossQ, "DQN": DQN, "QRDQN": QRDQN,
}  # fmt: skip
DISCRETE = ("DQN", "QRDQN")
ALGORITHMS = {**ON_POLICY, **OFF_POLICY}
SIBLINGS = ("A2C", "TRPO", "DDPG", "TQC", "QRDQN")
"""Algorithms whose networks and updates are those of PPO, TD3, SAC and DQN, or nearly so."""


def algorithms(*without: str) -> list[Any]:
    """All algorithms but some, for tests that take a second each: siblings of others are slow."""
    names = [name for name in ALGORITHMS if name not in without]
    return [pytest.param(name, marks=pytest.mark.slow) if name in SIBLINGS else name for name in names]


class PointMass(gym.Env):
    """A tiny task for mechanics: push a point to the origin. ``discrete`` gives three pushes to choose from."""

    def __init__(self, discrete: bool = False) -> None:
        self.discrete = discrete
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,))
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-2.0, 2.0, (2,))
        self.state, self.steps = np.zeros(3), 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.steps = self.np_random.normal(1.0, 2.0, 3), 0
        return self.state.astype(np.float32), {}

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        push = (float(action) - 1.0) if self.discrete else float(np.sum(action))
        self.state = 0.9 * self.state + np.array([push, 0.1, self.state[0]])
        self.steps += 1
        return self.state.astype(np.float32), -abs(float(self.state[0])), False, self.steps >= 20, {}


def build(name: str, *, shared: bool = False, **settings: Any) -> BaseAlgorithm:
    """A small untrained agent with BatchNorm and made-up running statistics."""
    cls = ALGORITHMS[name]
    off_policy = name in OFF_POLICY
    kwargs: dict[str, Any] = dict(EXTRACTOR)
    if name in DISCRETE:
        kwargs |= {"net_arch": [16]} | ({"n_quantiles": 20} if name == "QRDQN" else {})
    elif off_policy:
        kwargs["net_arch"] = [16]
        kwargs["share_features_extractor"] = shared
    else:
        kwargs["net_arch"] = []
        kwargs["share_features_extractor"] = shared
    if name == "CrossQ":
        kwargs.pop("share_features_extractor")
    if off_policy:
        settings = {"buffer_size": 2000, "learning_starts": 20, "batch_size": 32, "train_freq": 4} | settings
    else:
        settings = {"n_steps": 64} | ({"batch_size": 32} if name != "A2C" else {}) | settings
    model: BaseAlgorithm = cls(
        "MlpPolicy", PointMass(discrete=name in DISCRETE), policy_kwargs=kwargs, seed=0, device="cpu", **settings
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in batchnorm_layers(model.policy).values():
            layer.mean.copy_(torch.randn(layer.mean.shape, generator=generator))
            layer.var.copy_(torch.rand(layer.var.shape, generator=generator) + 0.5)
            if layer.weight is not None and layer.bias is not None:
                layer.weight.copy_(torch.rand(layer.weight.shape, generator=generator) + 0.5)
                layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator))
    for target in ("critic_target", "q_net_target", "quantile_net_target", "actor_target"):
        if hasattr(model.policy, target):
            getattr(model.policy, target).load_state_dict(
                getattr(model.policy, target.removesuffix("_target")).state_dict()
            )
    return model


def data(model: BaseAlgorithm, size: int = 200) -> tuple[NDArray[Any], NDArray[Any]]:
    """Observations far from the running statistics, and scaled actions."""
    rng = np.random.default_rng(1)
    observations = rng.normal(2.0, 3.0, (size, 3)).astype(np.float32)
    if isinstance(model.action_space, spaces.Discrete):
        return observations, rng.integers(0, 3, (size, 1))
    return observations, rng.uniform(-1, 1, (size, 2)).astype(np.float32)


@torch.no_grad()
def outputs(model: BaseAlgorithm, observations: Any, actions: torch.Tensor | None) -> list[torch.Tensor]:
    """What every network of a policy computes, targets included, in evaluation mode."""
    policy: Any = model.policy
    policy.set_training_mode(False)
    if isinstance(policy, ActorCriticPolicy):
        return list(policy(observations, deterministic=True)[:2])
    results = []
    for name, network in policy.named_children():
        arguments: tuple[Any, ...] = (observations, actions) if name.startswith("critic") else (observations,)
        if name == "actor" and hasattr(network, "action_dist"):
            arguments = (observations, True)  # deterministic
        result = network(*arguments)
        results += list(result) if isinstance(result, tuple) else [result]
    return results


def parse(overrides: list[str]) -> dict[str, Any]:
    """Settings for ``transfer``, written as on the command line: ``["num_envs=4"]`` is ``{"num_envs": 4}``."""
    return {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in overrides)}


@pytest.fixture
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks' episodes end after 100 steps, for tests of what happens around them."""
    for name in task_names():
        monkeypatch.setattr(gym.spec(register_task(name)), "max_episode_steps", 100)


@pytest.fixture(scope="module")
def groups_composed_once() -> Iterator[None]:
    """Hydra merges the files of each choice of groups once, for tests of many command lines."""
    with invocations.groups_composed_once():
        yield


@pytest.fixture(scope="session")
def kernels() -> Iterator[None]:
    """Warp compiles a kernel in one process of pytest; the others wait, and find it in Warp's cache.

    For the CPU it does not optimize them, which takes longer than it saves. Its precompiled headers, which it optimizes
    always, would be refused then, although they fit.
    """
    warp: Any = pytest.importorskip("warp")
    context = warp._src.context
    compile_or_find = context.Module._compile

    def compile_once(module: Any, device: Any, output_dir: str, *args: Any, **kwargs: Any) -> Any:
        Path(output_dir).parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{output_dir}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return compile_or_find(module, device, output_dir, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context.Module, "_compile", compile_once)
        if not torch.cuda.is_available():
            patch.setattr(warp.config, "optimization_level", 0)
            patch.setattr(warp.config, "cpu_compiler_flags", "-march=native -fno-validate-pch")
        yield


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)
