"""Command lines that are killed, small enough to be killed a hundred times, and the sources that they begin with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_contrib import CrossQ
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from daft_rl.archives import save_agent
from daft_rl.envs import make

__all__ = ["CASES", "Case", "make_sources"]

FEW = (
    *("total_timesteps=2048", "num_envs=2", "calibration.steps=128", "progress_bar=false", "checkpoint.every=256"),
    *("checkpoint.share=1", "evaluation.episodes=1", "evaluation.episodes_during=1", "evaluation.every=700"),
)
TRANSFER = ("calibration.held_out=32",)
ON_POLICY = ("algo.settings.n_steps=32",)
OFF_POLICY = (
    *("algo.settings.learning_starts=200", "algo.settings.buffer_size=1000"),
    *("algo.settings.train_freq=8", "algo.settings.gradient_steps=1"),
)


SOURCES: dict[str, tuple[Any, str]] = {
    **{f"{kind.__name__}-HalfCheetah": (kind, "HalfCheetah") for kind in (A2C, SAC)},
    **{f"{kind.__name__}-Pendulum": (kind, "Pendulum-v1") for kind in (A2C, CrossQ, PPO, SAC)},
}
"""Small sources that are made here: name -> algorithm and task."""
NORMALIZED = "Normalized-Pendulum"
"""A source with VecNormalize."""


@dataclass(frozen=True)
class Case:
    """A command line that is killed."""

    program: str
    overrides: tuple[str, ...]
    source: str | None = None
    """One of :data:`SOURCES`; ``None`` takes a shipped one."""
    moments: tuple[str, ...] = ("checkpoint", "results", "archive", "settings", "identity")
    """What ``--moments`` aims at."""
    forks: bool = True
    """Whether the program is a fork of this process. Workers of joblib need a new interpreter."""

    def command(self, folder: Path, sources: Path) -> list[str]:
        """The arguments that begin a run in this folder."""
        own = {item.partition("=")[0] for item in self.overrides}
        usual = FEW + (() if self.program == "pretrain" else ("method=daft", *TRANSFER))
        few = [item for item in usual if item.partition("=")[0] not in own]
        place = f"benchmark.folder={folder}" if self.program == "benchmark" else f"output_dir={folder}"
        agent = [] if self.source is None else [f"agent={sources / self.source}.zip"]
        return [*few, *self.overrides, *agent, place]


PENDULUM = ("env=gymnasium", "env.id=Pendulum-v1", "env.kwargs.g=5.0")
SAFETY = ("env=SafetyPointGoal-shifted", "env.cost_limit=5", *ON_POLICY)
PRETRAIN = (
    *("env=HalfCheetah", "algo=ppo", "total_timesteps=1024", "checkpoint.every=128"),
    *("recipe.settings.n_steps=32", "recipe.settings.n_epochs=2"),
)
GRID = (
    *("preset=smoke", "method=ft,daft", "seed=0", "env.shift={}", "evaluation.elsewhere=[]", "algo=ppo"),
    *(*PENDULUM, *ON_POLICY),
)
FORKED = "evaluate_in_background=true"
CASES = {
    "ppo": Case("transfer", ("env=Ant-shifted", *ON_POLICY)),
    "a2c": Case("transfer", ("env=HalfCheetah-shifted", *ON_POLICY), "A2C-HalfCheetah"),
    "sac": Case("transfer", ("env=HalfCheetah-shifted", *OFF_POLICY), "SAC-HalfCheetah"),
    "crossq": Case("transfer", ("env=HalfCheetah-shifted", "algo=crossq", *OFF_POLICY)),
    "vecnormalize": Case("transfer", ("env=HalfCheetah-shifted", "agent.normalize=update", *ON_POLICY)),
    "background": Case("transfer", ("env=Ant-shifted", FORKED, *ON_POLICY)),
    "delay": Case("transfer", ("env=Ant-shifted", "env.shift.action_delay=2", *ON_POLICY)),
    "constraint": Case("transfer", (*SAFETY, "vec=dummy")),
    "constraint-workers": Case("transfer", (*SAFETY, "vec=workers")),
    "workers": Case("transfer", ("env=Door-shifted", "vec=workers", *OFF_POLICY, "total_timesteps=1024")),
    "threads": Case("transfer", ("env=HalfCheetah-shifted", "vec=threads", FORKED, *ON_POLICY), "A2C-HalfCheetah"),
    "pretrain": Case("pretrain", PRETRAIN),
    "pendulum-ppo": Case("transfer", (*PENDULUM, *ON_POLICY), "PPO-Pendulum"),
    "pendulum-a2c": Case("transfer", (*PENDULUM, *ON_POLICY), "A2C-Pendulum"),
    "pendulum-sac": Case(
        "transfer", (*PENDULUM, *OFF_POLICY), "SAC-Pendulum", ("checkpoint", "replay", "results", "archive")
    ),
    "pendulum-crossq": Case(
        "transfer", (*PENDULUM, *OFF_POLICY), "CrossQ-Pendulum", ("checkpoint", "replay", "results", "archive")
    ),
    "pendulum-workers": Case("transfer", (*PENDULUM, "vec=workers", *ON_POLICY), "PPO-Pendulum"),
    "pendulum-normalized": Case(
        "transfer", (*PENDULUM, *ON_POLICY), f"{NORMALIZED}/agent", ("archive", "best", "checkpoint")
    ),
    "pendulum-forked": Case("transfer", (*PENDULUM, FORKED, *OFF_POLICY), "SAC-Pendulum", ("fork", "best")),
    "grid": Case("benchmark", GRID, "PPO-Pendulum", forks=False),
    "grid-alone": Case(
        "benchmark",
        (*GRID, "hydra.launcher.n_jobs=1"),
        "PPO-Pendulum",
        moments=("cell", "zero_shot", "results", "archive", "checkpoint", "identity"),
    ),
}


def make_sources(folder: Path) -> None:
    """Make :data:`SOURCES`, and :data:`NORMALIZED`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (kind, task) in SOURCES.items():
        if not (folder / f"{name}.zip").is_file():
            _small(kind, make(task)).save(folder / name)
    place = folder / NORMALIZED / "agent.zip"
    if not place.is_file():
        place.parent.mkdir(exist_ok=True)
        normalizer = VecNormalize(make_vec_env("Pendulum-v1"))
        save_agent(_small(PPO, normalizer, n_steps=64).learn(256), place)


def _small(kind: Any, env: Any, **settings: Any) -> BaseAlgorithm:
    return kind("MlpPolicy", env, policy_kwargs={"net_arch": [32]}, seed=0, device="cpu", **settings)
