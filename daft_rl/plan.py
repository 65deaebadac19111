"""What can be known before a run: whether its tasks, agent, device and folder exist. Nothing is written or learnt.

PyTorch, which takes seconds, is imported only where a setting needs it.
"""

from __future__ import annotations

import math
import os
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from daft_rl.archives import find_agent, find_vecnormalize
from daft_rl.correspondence import CHOICES, read_exceptions
from daft_rl.envs.dependencies import require_installed
from daft_rl.envs.domain import Domain, read_domains
from daft_rl.envs.factory import VEC_KINDS
from daft_rl.errors import ConfigError, DaftError, DaftWarning, TaskError
from daft_rl.hyperparameters import check_learning_starts
from daft_rl.settings import RunSettings, TransferSettings
from daft_rl.validation import unknown_name

__all__ = ["check_domains", "check_plan"]

PLAUSIBLE = (1e-3, 1e3)
"""Magnitudes of factors in a shift about which nobody is warned."""
EXPLORE_BY_NETWORKS = ("sac", "tqc", "crossq", "dqn", "qrdqn")
"""Algorithms whose exploration has no standard deviation to set."""


def check_plan(settings: RunSettings) -> None:
    """Refuse a run that cannot start.

    :param settings: of a transfer or of a pretraining
    :raises DaftError: a task, a level, an agent or a device does not exist, an environment cannot be made, or nothing
        can be written to the run folder
    """
    if settings.output_dir is None:
        raise ConfigError("output_dir is empty: name a folder, or leave it out.", arguments=("output_dir",))
    _check_folder(Path(settings.output_dir))
    if settings.vec not in VEC_KINDS:
        raise TaskError(unknown_name("vec", settings.vec, VEC_KINDS), arguments=("vec",))
    elsewhere = settings.evaluation.elsewhere if isinstance(settings, TransferSettings) else ()
    domains = read_domains(vars(settings.env), elsewhere)
    _check_cost(settings, domains["target"])
    if isinstance(settings, TransferSettings):
        agent = find_agent(domains["source"].name, settings.algo.name, settings.agent.path)
        find_vecnormalize(agent, settings.agent.vecnormalize)
        if settings.method.learns:  # a source's own number is looked at when it is loaded
            check_learning_starts(settings.algo.hyperparameters.get("learning_starts", 0), settings.total_timesteps)
        if settings.agent.correspondence not in CHOICES:
            read_exceptions(settings.agent.correspondence)
        _check_classes(settings)
        _warn_exploration(settings)
    if settings.env.vec_wrappers:
        from daft_rl.run.vec_wrappers import VecWrappers

        VecWrappers(settings.env.vec_wrappers)
    _check_device(settings)
    check_domains(domains)


def check_domains(domains: Mapping[str, Domain]) -> None:
    """Make each environment of somebody else's registration once. Warn of shifts that are hardly meant.

    The user's own objects are left alone: a function may make another environment each time it is called.

    :param domains: role -> domain
    :raises TaskError: an environment cannot be made
    """
    tried: list[Domain] = []
    for role, domain in domains.items():
        if domain not in tried:
            tried.append(domain)
            _warn_implausible(role, domain.changes)
            if not domain.is_ours and domain.maker is None:
                _try_to_make(domain)


def _try_to_make(domain: Domain) -> None:
    """Random numbers that its constructor draws are drawn again by the run, which also begins where this one does."""
    states, folder = (random.getstate(), np.random.get_state()), Path.cwd()
    try:
        env = domain.make()
    except DaftError:
        raise
    except Exception as error:  # an environment may raise anything
        raise TaskError(
            f"The environment '{domain.name}' cannot be made: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        os.chdir(folder)
    try:
        env.close()
    except Exception as error:  # it is of no use any more
        warnings.warn(DaftWarning(f"'{domain.name}' cannot be closed: {error}"), stacklevel=2)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def _warn_implausible(role: str, changes: Mapping[str, Any]) -> None:
    least, most = PLAUSIBLE
    for name, value in changes.items():
        given = [] if name in ("kwargs", "wrappers", "observation_draw") else list(_numbers(value))
        odd = [number for number in given if number and not least <= math.fabs(number) <= most]
        if odd or (name == "gravity" and min(given) < 0):
            warnings.warn(
                DaftWarning(f"shift.{name}={value} of the {role} is far from the unshifted task. Is it meant?"),
                stacklevel=2,
            )


def _check_cost(settings: RunSettings, target: Domain) -> None:
    if settings.env.cost_limit is not None and target.is_ours and not target.has_cost:
        raise TaskError(
            f"cost_limit={settings.env.cost_limit}: task '{target.name}' has no cost to limit.",
            arguments=("cost_limit",),
        )


def _check_classes(settings: TransferSettings) -> None:
    kwargs = settings.agent.policy_kwargs or {}
    if settings.agent.policy is not None or any(isinstance(item, str) for item in kwargs.values()):
        from daft_rl.run.agents import check_classes

        check_classes(settings.agent)


def _warn_exploration(settings: TransferSettings) -> None:
    given: Iterable[str] = (
        name
        for name in ("exploration_std", "most_exploration_std")
        if getattr(settings.algo, name) not in (None, "auto") and settings.algo.name in EXPLORE_BY_NETWORKS
    )
    for name in given:
        warnings.warn(
            DaftWarning(f"{name} has no effect on {settings.algo.name}, which explores in its own way. Leave it out."),
            stacklevel=2,
        )


def _check_device(settings: RunSettings) -> None:
    device = settings.device
    if settings.vec == "cuda":
        from daft_rl.run.engine import with_device

        require_installed("mujoco_warp")
        with_device(settings)
    if device.startswith("cuda"):
        import torch

        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(device.partition(":")[2] or 0) >= there:
            raise ConfigError(f"device={device}: PyTorch {torch.__version__} finds {there} CUDA devices here.")


def _check_folder(folder: Path) -> None:
    """
    :raises ConfigError: a file is in the way, or nothing can be written there
    """
    try:
        above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except (OSError, ValueError) as error:  # a name that is too long, or has a null byte
        raise ConfigError(f"output_dir={str(folder)[:200]!r}: no folder can have that name: {error}.") from error
    if not above.is_dir():
        raise ConfigError(f"output_dir={folder}: {above} is a file. Name a folder.", arguments=("output_dir",))
    try:
        with TemporaryDirectory(dir=above):
            pass
    except OSError as error:
        raise ConfigError(
            f"output_dir={folder}: nothing can be written to {above}: {error}.", arguments=("output_dir",)
        ) from error
