"""Which engine a run learns with: a simulator on the CPU with a policy there, or worlds and policy on a GPU."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TypeVar

import torch

from daft_rl.envs.domain import Domain
from daft_rl.errors import ConfigError
from daft_rl.settings import RunSettings

__all__ = ["choose_engine", "with_device"]

MANY = 1024
"""With as many environments as this, a GPU simulates faster than a CPU."""

Settings = TypeVar("Settings", bound=RunSettings)


def choose_engine(settings: Settings, domain: Domain) -> Settings:
    """Settings in which ``auto`` no longer stands for a choice between CPU and GPU. The choice is printed.

    :param domain: where the agent learns
    :raises ConfigError: ``vec="cuda"`` without a GPU
    """
    if settings.vec == "cuda":
        return with_device(settings)
    if not torch.cuda.is_available() or not domain.is_ours or settings.device == "cpu":
        return settings
    many = settings.num_envs >= MANY and settings.vec == "auto" and find_spec("mujoco_warp") is not None
    if many:
        chosen, why = replace(settings, vec="cuda", device=_gpu(settings.device)), "a GPU simulates so many faster"
    elif settings.device == "auto":
        chosen, why = replace(settings, device="cpu"), f"small networks are faster there; from {MANY} on, a GPU is"
    else:
        return settings
    print(f"num_envs={settings.num_envs}: vec={chosen.vec} device={chosen.device}, since {why}.")
    return chosen


def _gpu(device: str) -> str:
    return "cuda" if device == "auto" else device


def with_device(settings: Settings) -> Settings:
    """Settings of worlds with their device.

    ``device="cpu"`` simulates on the CPU, slowly, which is how worlds are tested.

    :raises ConfigError: there is no GPU
    """
    chosen = replace(settings, device=_gpu(settings.device))
    if chosen.device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(
            f"vec='cuda' needs a GPU, and PyTorch {torch.__version__} finds none here. Use vec='auto'; device='cpu' "
            "with a few num_envs tries the worlds on the CPU.",
            arguments=("vec", "device", "num_envs"),
        )
    return chosen
